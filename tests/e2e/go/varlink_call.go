// A Varlink client nobody of Holdfast wrote, on any of its sockets: asks who is there, reads and parses every interface
// description with the Go idl package, makes one call, and prints the replies as JSON, one a line.
//
//	varlink_call [--more] [--describe] SOCKET [INTERFACE.METHOD [PARAMETERS]]
//
// Exit status: 0 done, 1 failed, 2 usage, 3 a Varlink error (printed as {"error": …, "parameters": …}).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/varlink/go/varlink"
	"github.com/varlink/go/varlink/idl"
)

type info struct {
	Vendor     string   `json:"vendor"`
	Product    string   `json:"product"`
	Version    string   `json:"version"`
	URL        string   `json:"url"`
	Interfaces []string `json:"interfaces"`
}

// What the description of an interface holds, as the Go parser understood it.
type description struct {
	Interface string   `json:"interface"`
	Methods   []string `json:"methods"`
	Errors    []string `json:"errors"`
	Types     []string `json:"types"`
}

func printJSON(v interface{}) error {
	return json.NewEncoder(os.Stdout).Encode(v)
}

func describe(ctx context.Context, c *varlink.Connection, name string) (*idl.IDL, *description, error) {
	text, err := c.GetInterfaceDescription(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("GetInterfaceDescription(%s): %w", name, err)
	}
	// Debian's version of the library knows the grammar in which interface names had no capitals; all the rest of the text it
	// gets as it came.
	lower := strings.ToLower(name)
	parsed, err := idl.New(strings.Replace(text, "interface "+name+"\n", "interface "+lower+"\n", 1))
	if err != nil {
		return nil, nil, fmt.Errorf("description of %s: %w", name, err)
	}
	if parsed.Name != lower {
		return nil, nil, fmt.Errorf("description of %s is of %s", name, parsed.Name)
	}
	d := &description{Interface: name, Methods: []string{}, Errors: []string{}, Types: []string{}}
	for _, m := range parsed.Methods {
		d.Methods = append(d.Methods, m.Name)
	}
	for _, e := range parsed.Errors {
		d.Errors = append(d.Errors, e.Name)
	}
	for _, a := range parsed.Aliases {
		d.Types = append(d.Types, a.Name)
	}
	return parsed, d, nil
}

// look asks for everything a service says about itself, and makes sure that `method` is among it.
func look(ctx context.Context, c *varlink.Connection, method string, show bool) error {
	var who info
	if err := c.GetInfo(ctx, &who.Vendor, &who.Product, &who.Version, &who.URL, &who.Interfaces); err != nil {
		return fmt.Errorf("GetInfo: %w", err)
	}
	if show {
		if err := printJSON(who); err != nil {
			return err
		}
	}
	known := method == ""
	for _, name := range who.Interfaces {
		parsed, d, err := describe(ctx, c, name)
		if err != nil {
			return err
		}
		if show {
			if err := printJSON(d); err != nil {
				return err
			}
		}
		for _, m := range parsed.Methods {
			known = known || method == name+"."+m.Name
		}
	}
	if !known {
		fmt.Fprintf(os.Stderr, "varlink_call: %s is in none of the descriptions\n", method)
	}
	return nil
}

func call(ctx context.Context, c *varlink.Connection, method string, parameters json.RawMessage, more bool) error {
	var flags uint64
	if more {
		flags = varlink.More
	}
	receive, err := c.Send(ctx, method, parameters, flags)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	for {
		var reply json.RawMessage
		got, err := receive(ctx, &reply)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		if len(reply) == 0 {
			reply = json.RawMessage("{}")
		}
		if err := printJSON(reply); err != nil {
			return err
		}
		if got&varlink.Continues == 0 {
			return nil
		}
	}
}

// report prints a Varlink error the way it came over the wire, or any other in words.
func report(err error) int {
	var other *varlink.Error
	if errors.As(err, &other) {
		printJSON(map[string]interface{}{"error": other.Name, "parameters": other.Parameters})
		return 3
	}
	for _, known := range []error{new(varlink.InterfaceNotFound), new(varlink.MethodNotFound), new(varlink.MethodNotImplemented), new(varlink.InvalidParameter)} {
		inner := errors.Unwrap(err)
		if inner != nil && fmt.Sprintf("%T", inner) == fmt.Sprintf("%T", known) {
			printJSON(map[string]interface{}{"error": inner.Error(), "parameters": inner})
			return 3
		}
	}
	fmt.Fprintf(os.Stderr, "varlink_call: %v\n", err)
	return 1
}

func main() {
	more := flag.Bool("more", false, "ask for more than one reply and print each")
	show := flag.Bool("describe", false, "print what the service says about itself first")
	timeout := flag.Duration("timeout", 30*time.Second, "give up after this long")
	flag.Parse()
	if flag.NArg() < 1 || flag.NArg() > 3 {
		fmt.Fprintln(os.Stderr, "usage: varlink_call [--more] [--describe] [--timeout T] SOCKET [INTERFACE.METHOD [PARAMETERS]]")
		os.Exit(2)
	}
	address, method, parameters := flag.Arg(0), flag.Arg(1), json.RawMessage("{}")
	if flag.NArg() == 3 {
		parameters = json.RawMessage(flag.Arg(2))
	}
	if !json.Valid(parameters) {
		fmt.Fprintln(os.Stderr, "varlink_call: PARAMETERS are not JSON")
		os.Exit(2)
	}
	if !strings.HasPrefix(address, "unix:") {
		address = "unix:" + address
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	c, err := varlink.NewConnection(ctx, address)
	if err != nil {
		fmt.Fprintf(os.Stderr, "varlink_call: %v\n", err)
		os.Exit(1)
	}
	defer c.Close()
	err = look(ctx, c, method, *show)
	if err == nil && method != "" {
		err = call(ctx, c, method, parameters, *more)
	}
	if err != nil {
		os.Exit(report(err))
	}
}

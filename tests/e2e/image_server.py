"""A web server with faults on demand, for the tests of the image service: each path may have a list of behaviours, one used up with each
request, the last for good.

  {"cut": N}            N bytes of the body, then the connection is gone
  {"status": 500}       an error page
  {"hang": N}           N bytes of the body, then silence until the server is closed
  {"wrong": True}       as many bytes as there should be, one of them another
  {"short": N}          a whole answer that is N bytes too short
  {"no_range": True}    Range isn't looked at
  {"etag": "x"}         that ETag
  {"chunked": True}     the size isn't said
  {"redirect": URL}
  {"accept": True}      accepts and never answers
"""
import http.server
import os
import re
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def behaviour(self):
        with self.server.lock:
            listed = self.server.behaviours.get(self.path, [{}])
            return listed.pop(0) if len(listed) > 1 else listed[0]

    def body(self):
        try:
            with open(self.server.root + self.path, "rb") as f:
                return f.read()
        except OSError:
            return None

    def error(self, status):
        text = b"no such luck\n" * 100
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        how = self.behaviour()
        with self.server.lock:
            self.server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        if how.get("accept"):
            self.server.closing.wait()
            self.close_connection = True
            return
        if "redirect" in how:
            self.send_response(302)
            self.send_header("Location", how["redirect"])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.body()
        if how.get("status") or body is None:
            self.error(how.get("status", 404))
            return
        self.answer(how, body)

    def answer(self, how, body):
        if how.get("wrong"):
            body = body[:len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1:]
        body = body[:len(body) - how.get("short", 0)]
        etag, begin, size = '"' + how.get("etag", "first") + '"', 0, len(body)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and not how.get("no_range") and self.headers.get("If-Range", etag) == etag:
            begin = int(wanted.group(1))
        if begin and begin >= size:
            self.error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("ETag", etag)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        if how.get("chunked"):
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(size - begin))
        self.end_headers()
        end = begin + min(how.get("cut", size), how.get("hang", size))
        self.wfile.write(body[begin:end])
        if "hang" in how:
            self.wfile.flush()
            self.server.closing.wait()
        if "cut" in how or "hang" in how:
            self.close_connection = True


class ImageServer(http.server.ThreadingHTTPServer):
    """Serves `root` on a port of the loopback."""
    daemon_threads = True
    block_on_close = False

    def __init__(self, root):
        self.root = os.path.abspath(root)
        self.behaviours = {}
        self.requests = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass  # a client that went away

    def asked(self, path):
        with self.lock:
            return [(wanted, if_range) for requested, wanted, if_range in self.requests if requested == path]

    def stop(self):
        self.closing.set()
        self.shutdown()
        self.server_close()

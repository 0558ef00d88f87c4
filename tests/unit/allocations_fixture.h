/* What tests of allocations share: specs in a few words, given and started. */
#pragma once

#include "lib/base/json.h"
#include "lib/manager/allocations.h"
#include "lib/spec/load.h"
#include "tests/unit/fixture.h"

static const struct port_range range = { 23000, 23009 };

static inline struct allocations *open_allocations(char **ret_aside)
{
    struct allocations *a = NULL;

    ck_assert_int_eq(allocations_new(fixture.dir, &a, ret_aside, NULL), 0);
    return a;
}

static inline void load(const char *name, const char *rest, struct spec *ret_spec)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    struct err err = ERR_INIT;

    ck_assert_int_eq(
        str_format(&text, "{\"name\": \"%s\", \"memory\": \"1G\", \"boot\": {\"kernel\": \"/k\"}%s%s}", name, *rest ? ", " : "", rest), 0);
    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s in %s", err.text, text);
    ck_assert_int_eq(spec_load(json, &(struct spec_reader){ .arg = NULL }, ret_spec), 0);
}

static inline void give(struct allocations *a, const char *name, const char *rest, struct spec *ret_spec)
{
    struct err err = ERR_INIT;

    load(name, rest, ret_spec);
    ck_assert_msg(allocations_give(a, ret_spec, &range, &err) == 0, "%s", err.text);
    ck_assert_int_eq(allocations_commit(a), 0);
}

static inline uint64_t cid_of(struct allocations *a, const char *name)
{
    auto_spec struct spec spec = { 0 };

    give(a, name, "\"vsock\": {}", &spec);
    return spec.vsock.cid;
}

/* Gives, and takes as a start does. The result of that. */
static inline int start(struct allocations *a, const char *name, const char *rest, struct err *err)
{
    static const struct host_limits none = { 0 };
    struct admission admission = { .limits = &none, .disk_free = UINT64_MAX };
    auto_claims struct claims claims = { 0 };
    auto_spec struct spec spec = { 0 };
    bool freed;

    give(a, name, rest, &spec);
    ck_assert_int_eq(claims_from_spec(&spec, &claims), 0);
    return allocations_take(a, name, &claims, &admission, &freed, err);
}

static inline void started(struct allocations *a, const char *name, const char *rest)
{
    struct err err = ERR_INIT;

    ck_assert_msg(start(a, name, rest, &err) == 0, "%s", err.text);
    ck_assert_int_eq(allocations_commit(a), 0);
}

#define PORT(host) "\"network\": [{\"forward\": [{\"host\": \"" host "\", \"guest\": 80}]}]"

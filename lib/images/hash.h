/* SHA-256 as it goes (FIPS 180-4), by libcrypto. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/base/util.h"

struct hash;

enum { HASH_TEXT_MAX = 65 };

int hash_new(struct hash **ret_hash);
void hash_free(struct hash *h);
DEFINE_CLEANUP(struct hash *, hash, hash_free)
#define auto_hash auto_cleanup(hash_cleanup)

int hash_reset(struct hash *h);
int hash_add(struct hash *h, const void *data, size_t len);
/* 64 hex digits; the hash takes nothing more until it is reset. */
int hash_text(struct hash *h, char ret_text[HASH_TEXT_MAX]);
/* The same of what was added so far; the hash goes on. */
int hash_peek(const struct hash *h, char ret_text[HASH_TEXT_MAX]);

/* A zstd stream (RFC 8878) as it comes in, into a file that has holes where the data has zeros. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/util.h"
#include "lib/images/hash.h"

struct unpacker;

/* `fd` stays the caller's and must be empty. */
int unpacker_new(int fd, struct unpacker **ret_unpacker);
void unpacker_free(struct unpacker *u);
DEFINE_CLEANUP(struct unpacker *, unpacker, unpacker_free)
#define auto_unpacker auto_cleanup(unpacker_cleanup)

/* -EBADMSG: it is no zstd stream; -ENOSPC… */
int unpacker_write(struct unpacker *u, const void *data, size_t len, struct err *err);
/* The stream must have ended. Size and SHA-256 of what came of it. */
int unpacker_finish(struct unpacker *u, uint64_t *ret_size, char ret_sha256[HASH_TEXT_MAX], struct err *err);

/* Signatures of minisign(1) (https://jedisct1.github.io/minisign/#signature-format), old ("Ed") and prehashed ("ED"): Ed25519, BLAKE2b-512. */
#pragma once

#include <stddef.h>

#include "lib/base/err.h"

enum { MINISIGN_TEXT_MAX = 8 * 1024 };

/* `key`: the second line of a public key file, `signature`: a .minisig file. 0, or -EBADMSG with id "bad-signature" saying why it isn't one of
 * this data by this key. */
int minisign_verify(const char *key, const char *signature, const void *data, size_t len, struct err *err);

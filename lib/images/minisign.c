#include "lib/images/minisign.h"

#include <errno.h>
#include <openssl/evp.h>

#include "lib/base/util.h"
#include "lib/images/base64.h"

enum { KEY_ID = 8, PUBLIC_KEY = 32, SIGNATURE = 64, PREHASH = 64, COMMENT_MAX = 4096 };

/* The layouts of what is in base64. */
struct public_key {
    uint8_t algorithm[2], id[KEY_ID], key[PUBLIC_KEY];
};
struct signature {
    uint8_t algorithm[2], id[KEY_ID], signature[SIGNATURE];
};
_Static_assert(sizeof(struct public_key) == 42 && sizeof(struct signature) == 74, "bytes without gaps");

static const char comment_prefix[] = "trusted comment: ";

static int bad(struct err *err, const char *why) { return err_set(err, EBADMSG, "bad-signature", "%s", why); }

/* Line `n` of the text, its length in *ret_len without the line end; NULL: there is none. */
static const char *line_of(const char *text, unsigned n, size_t *ret_len)
{
    for (; n > 0; n--) {
        text = strchr(text, '\n');
        if (!text)
            return NULL;
        text++;
    }
    *ret_len = strcspn(text, "\r\n");
    return text;
}

static int decode_line(const char *text, unsigned n, void *ret, size_t len)
{
    size_t text_len;
    const char *line = line_of(text, n, &text_len);

    return line ? base64_decode(line, text_len, ret, len) : -EINVAL;
}

static bool ed25519_verify(const uint8_t key[PUBLIC_KEY], const uint8_t signature[SIGNATURE], const void *data, size_t len)
{
    EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, PUBLIC_KEY);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool fits = pkey && context && EVP_DigestVerifyInit(context, NULL, NULL, NULL, pkey) == 1 &&
                EVP_DigestVerify(context, signature, SIGNATURE, data, len) == 1;

    EVP_MD_CTX_free(context);
    EVP_PKEY_free(pkey);
    return fits;
}

static bool data_fits(const struct public_key *key, const struct signature *s, const void *data, size_t len)
{
    uint8_t hash[PREHASH];
    unsigned hash_len = sizeof(hash);

    if (s->algorithm[1] == 'd')
        return ed25519_verify(key->key, s->signature, data, len);
    return EVP_Digest(data, len, hash, &hash_len, EVP_blake2b512(), NULL) == 1 && ed25519_verify(key->key, s->signature, hash, hash_len);
}

/* The second signature is of the first and the trusted comment. */
static bool comment_fits(const struct public_key *key, const struct signature *s, const char *comment, size_t comment_len,
                         const uint8_t global[SIGNATURE])
{
    auto_free uint8_t *both = malloc(SIGNATURE + comment_len + 1);

    if (!both)
        return false;
    memcpy(both, s->signature, SIGNATURE);
    memcpy(both + SIGNATURE, comment, comment_len);
    return ed25519_verify(key->key, global, both, SIGNATURE + comment_len);
}

int minisign_verify(const char *key_text, const char *text, const void *data, size_t len, struct err *err)
{
    uint8_t global[SIGNATURE];
    struct public_key key;
    struct signature s;
    const char *comment;
    size_t comment_len = 0;

    if (base64_decode(key_text, strlen(key_text), (uint8_t *)&key, sizeof(key)) < 0 || memcmp(key.algorithm, "Ed", 2) != 0)
        return bad(err, "the configured public key is none of minisign's");
    comment = line_of(text, 2, &comment_len);
    if (decode_line(text, 1, &s, sizeof(s)) < 0 || !comment || comment_len > COMMENT_MAX ||
        strncmp(comment, comment_prefix, strlen(comment_prefix)) != 0 || decode_line(text, 3, global, sizeof(global)) < 0)
        return bad(err, "it is no signature of minisign's");
    if (memcmp(s.algorithm, "Ed", 2) != 0 && memcmp(s.algorithm, "ED", 2) != 0)
        return bad(err, "it was made by an algorithm that isn't known");
    if (memcmp(s.id, key.id, KEY_ID) != 0)
        return bad(err, "it was made with another key than the configured one");
    if (!data_fits(&key, &s, data, len))
        return bad(err, "it isn't a signature of this manifest");
    comment += strlen(comment_prefix);
    comment_len -= strlen(comment_prefix);
    return comment_fits(&key, &s, comment, comment_len, global) ? 0 : bad(err, "its trusted comment was changed");
}

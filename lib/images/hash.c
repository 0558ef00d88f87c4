#include "lib/images/hash.h"

#include <errno.h>
#include <openssl/evp.h>

enum { DIGEST_MAX = 32 };

struct hash {
    EVP_MD_CTX *context;
};

int hash_new(struct hash **ret_hash)
{
    auto_hash struct hash *h = calloc(1, sizeof(*h));

    if (!h)
        return -ENOMEM;
    h->context = EVP_MD_CTX_new();
    if (!h->context || hash_reset(h) < 0)
        return -ENOMEM;
    *ret_hash = steal_ptr(&h);
    return 0;
}

void hash_free(struct hash *h)
{
    if (h)
        EVP_MD_CTX_free(h->context);
    free(h);
}

int hash_reset(struct hash *h) { return EVP_DigestInit_ex(h->context, EVP_sha256(), NULL) == 1 ? 0 : -EIO; }

int hash_add(struct hash *h, const void *data, size_t len) { return EVP_DigestUpdate(h->context, data, len) == 1 ? 0 : -EIO; }

int hash_text(struct hash *h, char ret_text[HASH_TEXT_MAX])
{
    uint8_t digest[DIGEST_MAX];
    unsigned len = 0;

    if (EVP_DigestFinal_ex(h->context, digest, &len) != 1 || len != sizeof(digest))
        return -EIO;
    for (size_t i = 0; i < sizeof(digest); i++)
        (void)snprintf(ret_text + 2 * i, 3, "%02x", digest[i]);
    return 0;
}

int hash_peek(const struct hash *h, char ret_text[HASH_TEXT_MAX])
{
    struct hash copy = { .context = EVP_MD_CTX_new() };
    int r = copy.context && EVP_MD_CTX_copy_ex(copy.context, h->context) == 1 ? hash_text(&copy, ret_text) : -ENOMEM;

    EVP_MD_CTX_free(copy.context);
    return r;
}

/* The parts of a fetch without a network: manifests, indexes, signatures, unpacking, a file while it comes in. */
#include <sys/stat.h>
#include <zstd.h>

#include "lib/images/fetch.h"
#include "lib/images/hash.h"
#include "lib/images/http.h"
#include "lib/images/manifest.h"
#include "lib/images/minisign.h"
#include "lib/images/sink.h"
#include "lib/images/template.h"
#include "lib/images/unpack.h"
#include "tests/unit/fixture.h"

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define ONES "1111111111111111111111111111111111111111111111111111111111111111"

/* ---- texts ---- */

START_TEST(manifest_of_sp_vm)
{
    static const char text[] =
        "{\"image\": {\"bucket\": \"b\", \"prefix\": \"p/q\", \"filename\": \"sp-vm-7.img.zst\", \"sha256\": \"" ZEROS
        "\", \"more\": 1}, \"note\": \"no file\", \"bios\": {\"filename\": \"OVMF.fd\", \"sha256\": \"" ONES
        "\", \"size\": 5}, \"bios_amd\": {\"filename\": \"OVMF.fd\", \"sha256\": \"" ONES "\"}}";
    auto_manifest struct manifest m = { 0 };
    auto_free char *stored = NULL;

    ck_assert_int_eq(manifest_parse(text, strlen(text), &m, NULL), 0);
    ck_assert_uint_eq(m.n_files, 3);
    ck_assert_str_eq(m.files[0].role, "image");
    ck_assert_str_eq(m.files[0].prefix, "p/q");
    ck_assert(manifest_file_is_packed(&m.files[0]) && !manifest_file_is_packed(&m.files[1]));
    stored = manifest_file_stored_name(&m.files[0]);
    ck_assert_str_eq(stored, "sp-vm-7.img");
    ck_assert_uint_eq(m.files[1].size, 5);
    ck_assert(manifest_file_is_repeated(&m, 2) && !manifest_file_is_repeated(&m, 1));
}
END_TEST

START_TEST(bad_manifests)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"note\": 1}",
        "{\"image\": {}}",
        "{\"image\": {\"filename\": \"x\", \"sha256\": \"12\"}}",
        "{\"image\": {\"filename\": \"a/b\", \"sha256\": \"" ZEROS "\"}}",
        "{\"image\": {\"filename\": \".x\", \"sha256\": \"" ZEROS "\"}}",
        "{\"image\": {\"filename\": \"vm.json\", \"sha256\": \"" ZEROS "\"}}",
        "{\"image\": {\"filename\": \"image.json.zst\", \"sha256\": \"" ZEROS "\"}}",
        "{\"image\": {\"filename\": \"x\", \"sha256\": \"" ZEROS "\", \"size\": -1}}",
        "{\"Image\": {\"filename\": \"x\", \"sha256\": \"" ZEROS "\"}}",
        "{\"image\": {\"filename\": \"x\", \"sha256\": \"" ZEROS "\"}, \"bios\": {\"filename\": \"x.zst\", \"sha256\": \"" ZEROS "\"}}",
    };

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct manifest m = { 0 };
        struct err err = ERR_INIT;

        ck_assert_msg(manifest_parse(bad[i], strlen(bad[i]), &m, &err) == -EINVAL, "%s", bad[i]);
        ck_assert_str_eq(err.id, "bad-manifest");
        ck_assert(err.text[0]);
    }
}
END_TEST

START_TEST(indexes)
{
    static const char good[] =
        "{\"schema\": 1, \"versions\": [{\"version\": \"b\", \"files\": {\"k\": {\"filename\": \"x\", \"sha256\": \"" ZEROS
        "\"}}}, {\"version\": \"a\", \"files\": {}}]}";
    static const char latest[] =
        "{\"schema\": 1, \"latest\": \"a\", \"versions\": [{\"version\": \"b\", \"files\": {}}, {\"version\": \"a\", "
        "\"files\": {}}]}";
    static const char *const bad[] = { "{}",
                                       "{\"schema\": 2, \"versions\": []}",
                                       "{\"schema\": 1}",
                                       "{\"schema\": 1, \"versions\": [1]}",
                                       "{\"schema\": 1, \"versions\": [{\"version\": \"..\", \"files\": {}}]}",
                                       "{\"schema\": 1, \"latest\": \"x\", \"versions\": []}",
                                       "{\"schema\": 1, \"versions\": [{\"version\": \"a\"}]}" };
    auto_json json_t *index = NULL, *other = NULL;
    auto_manifest struct manifest m = { 0 };

    ck_assert_int_eq(index_parse(good, strlen(good), &index, NULL), 0);
    ck_assert_str_eq(index_newest(index), "b");
    ck_assert_int_eq(manifest_from_json(index_files(index, "b"), &m, NULL), 0);
    ck_assert_ptr_null(index_files(index, "c"));
    ck_assert_int_eq(index_parse(latest, strlen(latest), &other, NULL), 0);
    ck_assert_str_eq(index_newest(other), "a");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *json = NULL;

        ck_assert_msg(index_parse(bad[i], strlen(bad[i]), &json, NULL) == -EINVAL, "%s", bad[i]);
    }
}
END_TEST

START_TEST(templates)
{
    static const struct template_value values[] = {
        { "bucket", "b" }, { "prefix", "p/q r" }, { "filename", "a+%\xc3\xa4" }, { "none", NULL }
    };
    auto_free char *url = NULL, *word = NULL;
    struct err err = ERR_INIT;
    char *untouched = NULL;

    ck_assert_int_eq(template_expand("https://x/{bucket}/{prefix}/{filename}?{none}", values, 4, true, &url, NULL), 0);
    ck_assert_str_eq(url, "https://x/b/p/q%20r/a%2B%25%C3%A4?");
    ck_assert_int_eq(template_expand("--x={prefix}", values, 4, false, &word, NULL), 0);
    ck_assert_str_eq(word, "--x=p/q r");
    ck_assert_int_eq(template_expand("{filenam}", values, 4, false, &untouched, &err), -EINVAL);
    ck_assert_str_eq(err.text, "{filenam} stands for nothing here");
    ck_assert_int_eq(template_expand("a{b", values, 4, false, &untouched, NULL), -EINVAL);
    ck_assert_ptr_null(untouched);
}
END_TEST

START_TEST(hosts)
{
    static char example[] = "*.example.org", other[] = "other.net";
    char *const allowed[] = { example, other, NULL };
    auto_free char *url = NULL, *absolute = NULL;

    ck_assert(http_url_is_allowed("https://here/x", "https://here/y", NULL));
    ck_assert(!http_url_is_allowed("https://there/x", "https://here/y", NULL));
    ck_assert(!http_url_is_allowed("http://here/x", "https://here/y", NULL));
    ck_assert(!http_url_is_allowed("file:///etc/passwd", "https://here/y", allowed));
    ck_assert(http_url_is_allowed("https://a.b.EXAMPLE.org/x", "https://here/y", allowed));
    ck_assert(http_url_is_allowed("https://other.net:8443/x", "https://here/y", allowed));
    ck_assert(!http_url_is_allowed("https://example.org/x", "https://here/y", allowed));
    ck_assert(!http_url_is_allowed("https://badexample.org/x", "https://here/y", allowed));
    ck_assert(!http_url_is_allowed("https://other.net@evil.org/x", "https://here/y", allowed));
    ck_assert_int_eq(http_url_resolve("https://here/a/index.json", "b/c.img", &url), 0);
    ck_assert_str_eq(url, "https://here/a/b/c.img");
    ck_assert_int_eq(http_url_resolve("https://here/a/index.json", "https://there/c", &absolute), 0);
    ck_assert_str_eq(absolute, "https://there/c");
}
END_TEST

/* ---- signatures, made by minisign 0.11 ---- */

static const char key[] = "RWTvkQO2Jisy2CUZcTZKRUZ1xZe4aUZVzvm0Fe/o+hM4Fm742GSVe+Ko";
static const char signature[] = "untrusted comment: signature from minisign secret key\n"
                                "RUTvkQO2Jisy2BtVeZhzcsE+NTCM+hUGU+po86fVmCR9kM6AyyKoDsvitcr2aDsXgUXe7r7XkMd5Mq63VBGJijrG1qUeYw1BfgU=\n"
                                "trusted comment: of the test\n"
                                "AzRSCffo0Y+PqZ/0uFAFoEbc/IPCIPj5zUHAJDslh+IiChw5kuVSmmVf27Q8Xd8WqPSDSd7Rq7YZ0O9pHjioDw==\n";
static const char legacy[] = "untrusted comment: signature from minisign secret key\n"
                             "RWTvkQO2Jisy2FEi3/tFF0fNUAl3854JPeaS3Vr+QDBA3rDMI2fEi2XET6Y3gF4XVrF33cdJV4Sa7nfV3EqSiQMytRQlyZ2u9Q8=\n"
                             "trusted comment: of the test, legacy\n"
                             "r02AUe2Fl9S1pCaTRDlC3E46VWwVv+Di9wnoFOV0lYspg0mmHur+Xz/g9WYT3LZ5Jirfo1JQ6ZzdESXz+MShDQ==\n";
static const char strangers[] = "untrusted comment: signature from minisign secret key\n"
                                "RUSCYM408nMAa5P2sR34ZDe5oBIv7DNeadBtZ/azATrZo42+9R+bZkA36rmRawKd8bA/GbIP3LAZCEJo5Ub8TRuQoGPx1vxYGQA=\n"
                                "trusted comment: other\n"
                                "csdivPhTJRv+CN6gbpJV0eXlkviUh2G2AJt628dj9EUXsDv80xn76yWjuVdd3C0qnW70eJ48sG1X+F9XYTmtAQ==\n";

static void expect_bad(const char *text, const char *data, const char *why)
{
    struct err err = ERR_INIT;

    ck_assert_int_eq(minisign_verify(key, text, data, strlen(data), &err), -EBADMSG);
    ck_assert_str_eq(err.id, "bad-signature");
    ck_assert_msg(strstr(err.text, why), "%s", err.text);
}

START_TEST(signatures)
{
    auto_free char *changed = strdup(signature);

    ck_assert_int_eq(minisign_verify(key, signature, "hello\n", 6, NULL), 0);
    ck_assert_int_eq(minisign_verify(key, legacy, "hello\n", 6, NULL), 0);
    expect_bad(signature, "hello", "of this manifest");
    expect_bad(legacy, "hallo\n", "of this manifest");
    expect_bad(strangers, "hello\n", "another key");
    *strstr(changed, "the test") = 'T';
    expect_bad(changed, "hello\n", "trusted comment");
    expect_bad("", "hello\n", "no signature");
    expect_bad("a\nb\nc\nd\n", "hello\n", "no signature");
    for (size_t len = 0; len < strlen(signature) - 1; len++) {
        auto_free char *cut = strndup(signature, len);

        ck_assert_int_eq(minisign_verify(key, cut, "hello\n", 6, NULL), -EBADMSG);
    }
    ck_assert_int_eq(minisign_verify("short", signature, "hello\n", 6, NULL), -EBADMSG);
}
END_TEST

/* ---- a file comes in ---- */

enum { PLAIN = 3 * 1024 * 1024 + 17, HOLE_FROM = 256 * 1024, HOLE_TO = 3 * 1024 * 1024 };

static char *plain; /* with a hole of zeros */
static char *packed;
static size_t packed_len;

static void make_data(void)
{
    uint32_t random = 1;

    plain = calloc(1, PLAIN);
    packed = malloc(ZSTD_compressBound(PLAIN));
    ck_assert(plain && packed);
    for (size_t i = 0; i < PLAIN; i++) {
        random = random * 1664525 + 1013904223;
        plain[i] = i >= HOLE_FROM && i < HOLE_TO ? '\0' : (char)(random >> 24);
    }
    packed_len = ZSTD_compress(packed, ZSTD_compressBound(PLAIN), plain, PLAIN, 1);
    ck_assert(!ZSTD_isError(packed_len));
}

static void free_data(void)
{
    free(plain);
    free(packed);
}

static void sum(const char *data, size_t len, char text[HASH_TEXT_MAX])
{
    auto_hash struct hash *h = NULL;

    ck_assert_int_eq(hash_new(&h), 0);
    ck_assert_int_eq(hash_add(h, data, len), 0);
    ck_assert_int_eq(hash_text(h, text), 0);
}

START_TEST(hashes)
{
    auto_hash struct hash *h = NULL;
    char text[HASH_TEXT_MAX];

    sum("abc", 3, text);
    ck_assert_str_eq(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    ck_assert_int_eq(hash_new(&h), 0);
    ck_assert_int_eq(hash_add(h, "ab", 2), 0);
    ck_assert_int_eq(hash_peek(h, text), 0);
    ck_assert_int_eq(hash_add(h, "c", 1), 0);
    ck_assert_int_eq(hash_text(h, text), 0);
    ck_assert_str_eq(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
END_TEST

/* In pieces of every odd size, all of it or cut off. */
START_TEST(unpacked_sparse)
{
    auto_free char *back = malloc(PLAIN);
    char expected[HASH_TEXT_MAX], got[HASH_TEXT_MAX];
    uint64_t size;
    struct stat st;

    make_data();
    sum(plain, PLAIN, expected);
    for (size_t piece = 1; piece < packed_len * 2; piece = piece * 7 + 3) {
        auto_unpacker struct unpacker *u = NULL;
        auto_fd int fd = openat(fixture.dir, "out", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        ck_assert_int_eq(unpacker_new(fd, &u), 0);
        for (size_t at = 0; at < packed_len; at += piece)
            ck_assert_int_eq(unpacker_write(u, packed + at, piece < packed_len - at ? piece : packed_len - at, NULL), 0);
        ck_assert_int_eq(unpacker_finish(u, &size, got, NULL), 0);
        ck_assert_uint_eq(size, PLAIN);
        ck_assert_str_eq(got, expected);
        ck_assert_int_eq(pread(fd, back, PLAIN, 0), PLAIN);
        ck_assert_int_eq(memcmp(back, plain, PLAIN), 0);
        ck_assert_int_eq(fstat(fd, &st), 0);
        ck_assert_int_lt(st.st_blocks * 512, 600 * 1024);
    }
    auto_unpacker struct unpacker *cut = NULL, *odd = NULL;
    auto_fd int fd = openat(fixture.dir, "out", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_eq(unpacker_new(fd, &cut), 0);
    ck_assert_int_eq(unpacker_write(cut, packed, packed_len - 1, NULL), 0);
    ck_assert_int_eq(unpacker_finish(cut, &size, got, NULL), -EBADMSG);
    ck_assert_int_eq(unpacker_new(fd, &odd), 0);
    ck_assert_int_eq(unpacker_write(odd, "no zstd stream", 14, NULL), -EBADMSG);
    free_data();
}
END_TEST

struct sink_fixture {
    struct images_config config;
    struct rate_limiter limiter;
    struct image_task task;
    struct manifest_file file;
    char sha256[HASH_TEXT_MAX];
};

static void sink_fixture_init(struct sink_fixture *f, const char *filename, const char *data, size_t len)
{
    f->config = IMAGES_CONFIG_DEFAULTS;
    f->config.margin = 0;
    pthread_mutex_init(&f->limiter.mutex, NULL);
    ck_assert_int_eq(image_task_init(&f->task, &f->limiter), 0);
    f->task.config = &f->config;
    sum(data, len, f->sha256);
    f->file = (struct manifest_file){ .role = (char[]){ "image" }, .sha256 = f->sha256, .size = len };
    f->file.filename = strdup(filename);
}

static void sink_fixture_done(struct sink_fixture *f)
{
    free(f->file.filename);
    image_task_clear(&f->task);
    pthread_mutex_destroy(&f->limiter.mutex);
}

/* A service that died any number of times on the way. */
static void come_in(const char *filename, const char *data, size_t len, const char *published)
{
    struct sink_fixture f = { 0 };
    auto_free char *sha256 = NULL;
    char expected[HASH_TEXT_MAX];
    size_t at = 0;

    sink_fixture_init(&f, filename, data, len);
    for (int life = 0; life < 4; life++) {
        auto_sink struct sink *s = NULL;
        size_t end = life == 3 ? len : len * (size_t)(life + 1) / 5;

        ck_assert_int_eq(sink_open(&f.task, fixture.dir, &f.file, &s, NULL), 0);
        ck_assert_uint_eq(sink_offset(s), at);
        ck_assert_int_eq(sink_set_size(s, len, NULL), 0);
        ck_assert_ptr_eq(sink_validator(s) ? NULL : s, life == 0 ? s : NULL);
        ck_assert_int_eq(sink_set_validator(s, "\"e\""), 0);
        ck_assert_int_eq(sink_write(s, data + at, end - at, NULL), 0);
        ck_assert(sink_is_complete(s) == (life == 3));
        at = end;
    }
    auto_sink struct sink *last = NULL;
    ck_assert_int_eq(sink_open(&f.task, fixture.dir, &f.file, &last, NULL), 0);
    ck_assert_str_eq(sink_validator(last), "\"e\"");
    ck_assert_int_eq(sink_finish(last, &sha256, NULL), 0);
    sum(plain, PLAIN, expected);
    ck_assert_str_eq(sha256, expected);
    ck_assert_int_eq(sink_publish(fixture.dir, &f.file), 0);
    ck_assert(fixture_exists(published));
    auto_free char *part = sink_part_name(&f.file);
    ck_assert(!fixture_exists(part));
    sink_fixture_done(&f);
}

START_TEST(gone_on_with)
{
    make_data();
    come_in("disk.img", plain, PLAIN, "disk.img");
    come_in("packed.img.zst", packed, packed_len, "packed.img");
    free_data();
}
END_TEST

START_TEST(wrong_contents)
{
    struct sink_fixture f = { 0 };
    auto_sink struct sink *s = NULL;
    auto_free char *sha256 = NULL;
    struct err err = ERR_INIT;

    sink_fixture_init(&f, "x", "right", 5);
    ck_assert_int_eq(sink_open(&f.task, fixture.dir, &f.file, &s, NULL), 0);
    ck_assert_int_eq(sink_set_size(s, 6, &err), -EBADMSG);
    ck_assert_str_eq(err.id, "wrong-size");
    ck_assert_int_eq(sink_write(s, "wrong!", 6, NULL), -EBADMSG);
    ck_assert_int_eq(sink_write(s, "wro", 3, NULL), 0);
    ck_assert_int_eq(sink_finish(s, &sha256, NULL), -EBADMSG);
    ck_assert_int_eq(sink_write(s, "ng", 2, NULL), 0);
    ck_assert_int_eq(sink_finish(s, &sha256, &err), -EBADMSG);
    ck_assert_str_eq(err.id, "wrong-hash");
    ck_assert_int_eq(sink_restart(s, NULL), 0);
    ck_assert_uint_eq(atomic_load(&f.task.done), 0);
    ck_assert_int_eq(sink_write(s, "right", 5, NULL), 0);
    ck_assert_int_eq(sink_finish(s, &sha256, NULL), 0);
    ck_assert_str_eq(sha256, f.sha256);
    /* A publication that was cut off. */
    ck_assert_int_eq(sink_publish(fixture.dir, &f.file), 0);
    ck_assert_int_eq(sink_unpublish(fixture.dir, &f.file), 0);
    ck_assert_int_eq(sink_unpublish(fixture.dir, &f.file), 0);
    ck_assert(!fixture_exists("x"));
    f.config.margin = UINT64_MAX / 4;
    ck_assert_int_eq(sink_set_size(s, 5, &err), -ENOSPC);
    sink_fixture_done(&f);
}
END_TEST

/* ---- pace, and the end ---- */

START_TEST(paced_and_cancelled)
{
    struct sink_fixture f = { 0 };
    struct err err = ERR_INIT;
    struct backoff backoff;

    sink_fixture_init(&f, "x", "y", 1);
    f.config.rate_limit = 1024;
    ck_assert_int_eq(image_task_pace(&f.task, 64), 0);
    ck_assert_uint_gt(f.limiter.free_us, 0);
    f.config.retries = 2;
    f.config.retry_delay_ms = 1;
    backoff = fetch_backoff(&f.task);
    err_set(&err, EAGAIN, "source", "down");
    ck_assert(fetch_again(&f.task, &backoff, &err));
    ck_assert(fetch_again(&f.task, &backoff, &err));
    ck_assert(!fetch_again(&f.task, &backoff, &err));
    ck_assert_str_eq(err.text, "down (tried 3 times)");
    image_task_cancel(&f.task);
    /* It would be some hours. */
    ck_assert_int_eq(image_task_pace(&f.task, 1 << 30), -ECANCELED);
    backoff_reset(&backoff);
    ck_assert(!fetch_again(&f.task, &backoff, &err));
    ck_assert_str_eq(err.id, "cancelled");
    sink_fixture_done(&f);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, manifest_of_sp_vm);
    tcase_add_test(tc, bad_manifests);
    tcase_add_test(tc, indexes);
    tcase_add_test(tc, templates);
    tcase_add_test(tc, hosts);
    tcase_add_test(tc, signatures);
    tcase_add_test(tc, hashes);
    tcase_add_test(tc, unpacked_sparse);
    tcase_add_test(tc, gone_on_with);
    tcase_add_test(tc, wrong_contents);
    tcase_add_test(tc, paced_and_cancelled);
}

int main(void) { return fixture_main("image_fetch", add_tests); }

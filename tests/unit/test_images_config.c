/* The part "images" of the host config: as holdfast-imaged reads it, and as the manager does. */
#include "lib/images/config.h"
#include "lib/manager/config.h"
#include "tests/unit/fixture.h"

static const char whole[] =
    "{\"group\": \"staff\", \"images\": {\"keep_versions\": 3, \"rate_limit\": \"50M\", \"proxy\": \"http://p:1\", "
    "\"ca_file\": \"/ca\", \"parallel\": 2, \"retries\": 0, \"retry_delay\": \"2s\", \"stall_timeout\": \"1m\", "
    "\"check_interval\": \"1d\", \"margin\": \"1G\", \"sources\": {"
    "\"sp-vm\": {\"kind\": \"github-releases\", \"url\": \"https://g/o/r\", \"file_url\": \"https://s/{bucket}/{filename}\", "
    "\"hosts\": [\"*.g\"], \"public_key\": \"RWTvkQO2Jisy2CUZcTZKRUZ1xZe4aUZVzvm0Fe/o+hM4Fm742GSVe+Ko\"}, "
    "\"a\": {\"kind\": \"https-index\", \"url\": \"https://i/index.json\"}, \"b\": {\"kind\": \"folder\", \"path\": \"/srv\"}, "
    "\"c\": {\"kind\": \"command\", \"command\": [\"/bin/get\", \"{action}\", \"{version}\"], \"timeout\": \"1h\"}}}}";

START_TEST(full)
{
    auto_images_config struct images_config config = { 0 };
    struct host_config host = { 0 };
    auto_free char *group = NULL;
    const struct image_source *source;

    fixture_write("holdfast.json", whole);
    ck_assert_int_eq(images_config_read(fixture.path, &config, &group, NULL), 0);
    ck_assert_str_eq(group, "staff");
    ck_assert_uint_eq(config.keep_versions, 3);
    ck_assert_uint_eq(config.rate_limit, 50 << 20);
    ck_assert_uint_eq(config.check_interval_ms, 86400000);
    ck_assert_uint_eq(config.sources.n, 4);
    source = images_config_source(&config, "sp-vm");
    ck_assert_int_eq(source->kind, IMAGE_SOURCE_GITHUB);
    ck_assert_str_eq(source->hosts[0], "*.g");
    ck_assert_uint_eq(images_config_source(&config, "c")->timeout_ms, 3600000);
    ck_assert_ptr_null(images_config_source(&config, "d"));

    ck_assert_int_eq(host_config_read(fixture.path, &host, NULL), 0);
    ck_assert_uint_eq(host.images.sources.n, 4);
    host_config_clear(&host);
}
END_TEST

/* What else is in the file is the manager's. */
START_TEST(others_keys)
{
    auto_images_config struct images_config config = { 0 }, none = { 0 };

    fixture_write("holdfast.json", "{\"of_a_newer_manager\": 1}");
    ck_assert_int_eq(images_config_read(fixture.path, &config, NULL, NULL), 0);
    ck_assert_uint_eq(config.keep_versions, 2);
    ck_assert_int_eq(images_config_read("/nonexistent", &none, NULL, NULL), 0);
}
END_TEST

START_TEST(mistakes)
{
    static const struct {
        const char *images, *expected;
    } cases[] = {
        { "1", "expected an object" },
        { "{\"keep_versions\": 0}", "/keep_versions" },
        { "{\"parallel\": 17}", "/parallel" },
        { "{\"stall_timeout\": \"0\"}", "/images/stall_timeout" },
        { "{\"rate_limit\": \"1K\"}", "/images/rate_limit" },
        { "{\"ca_file\": \"ca\"}", "/images/ca_file" },
        { "{\"sources\": []}", "/sources: expected an object" },
        { "{\"sources\": {\"../x\": {}}}", "is no name of an image" },
        { "{\"sources\": {\"x\": {}}}", "/sources: x/kind" },
        { "{\"sources\": {\"x\": {\"kind\": \"folder\", \"pat\": 1}}}", "x/pat: unknown key" },
        { "{\"sources\": {\"x\": {\"kind\": \"folder\", \"path\": \"srv\"}}}", "/images/sources/x/path" },
        { "{\"sources\": {\"x\": {\"kind\": \"https-index\", \"url\": \"ftp://x\"}}}", "/images/sources/x/url" },
        { "{\"sources\": {\"x\": {\"kind\": \"github-releases\", \"url\": \"https://x\"}}}", "/images/sources/x/file_url" },
        { "{\"sources\": {\"x\": {\"kind\": \"github-releases\", \"url\": \"https://x\", \"file_url\": \"https://x/{buckt}\"}}}",
          "{buckt}" },
        { "{\"sources\": {\"x\": {\"kind\": \"command\"}}}", "/images/sources/x/command" },
        { "{\"sources\": {\"x\": {\"kind\": \"command\", \"command\": [\"get\"]}}}", "absolute path" },
        { "{\"sources\": {\"x\": {\"kind\": \"folder\", \"path\": \"/srv\", \"public_key\": \"abc\"}}}", "/images/sources/x/public_key" },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_free char *text = NULL;
        struct images_config config;
        struct host_config host;
        struct err err = ERR_INIT, hosts = ERR_INIT;

        ck_assert_int_eq(str_format(&text, "{\"images\": %s}", cases[i].images), 0);
        fixture_write("holdfast.json", text);
        ck_assert_int_eq(images_config_read(fixture.path, &config, NULL, &err), -EINVAL);
        ck_assert_msg(strstr(err.text, cases[i].expected), "%s: %s", cases[i].images, err.text);
        ck_assert_ptr_nonnull(strstr(err.text, "holdfast.json"));
        ck_assert_int_eq(host_config_read(fixture.path, &host, &hosts), -EINVAL);
        ck_assert_msg(strstr(hosts.text, cases[i].expected), "%s: %s", cases[i].images, hosts.text);
    }
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, full);
    tcase_add_test(tc, others_keys);
    tcase_add_test(tc, mistakes);
}

int main(void) { return fixture_main("images_config", add_tests); }

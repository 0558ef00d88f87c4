/* The marker of a drain. What a drain does is in tests/e2e/test_drain.py. */
#include "lib/manager/drain.h"

#include <check.h>
#include <errno.h>

#include "lib/base/util.h"

#define BOOT "0d6b2e0f-4c52-4a0b-9e0c-1f4e6a7b8c9d"
#define OTHER "1d6b2e0f-4c52-4a0b-9e0c-1f4e6a7b8c9d"

static const struct {
    const char *text;
    int result;
} cases[] = {
    { BOOT " 8\n", 8 },
    { BOOT " 8", 8 },
    { BOOT " 1024\n", DRAIN_PARALLEL_MAX },
    { OTHER " 8\n", -ESTALE },
    { OTHER " nonsense\n", -ESTALE },
    { BOOT " 0\n", -EINVAL },
    { BOOT " 1025\n", -EINVAL },
    { BOOT " -1\n", -EINVAL },
    { BOOT " 8 8\n", -EINVAL },
    { BOOT " 88888888888888888888888888888888888\n", -EINVAL },
    { BOOT "\n", -EINVAL },
    { BOOT, -EINVAL },
    { "8\n", -EINVAL },
    { "", -EINVAL },
};

START_TEST(marker) { ck_assert_int_eq(drain_marker_parse(cases[_i].text, BOOT), cases[_i].result); }
END_TEST

int main(void)
{
    Suite *suite = suite_create("drain");
    TCase *tcase = tcase_create("marker");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_loop_test(tcase, marker, 0, ARRAY_LEN(cases));
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

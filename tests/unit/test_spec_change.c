/* What a look at the specs means, cell by cell. */
#include "lib/manager/spec_change.h"

#include <check.h>

#include "lib/base/util.h"
#include "lib/manager/spec_folder.h"

static char first_file[] = "a.json", second_file[] = "b.json", nonsense[] = "line 1: nonsense";
static const struct spec_entry one = { .file = first_file, .digest = "1111111111111111" },
                               other = { .file = second_file, .digest = "2222222222222222" },
                               wrong = { .file = first_file, .error = nonsense };

#define HAS(d) .known = { .has_spec = true, .digest = (d) }
#define NONE .known = { .digest = "" }

static const struct {
    const char *what;
    struct spec_known known;
    struct spec_seen seen;
    enum spec_change change;
} changes[] = {
    { "nothing there, nothing known", NONE, { 0 }, SPEC_SAME },
    { "new", NONE, { &one, NULL }, SPEC_NEW },
    { "new and wrong", NONE, { &wrong, NULL }, SPEC_BROKEN },
    { "untouched", HAS("1111111111111111"), { &one, NULL }, SPEC_SAME },
    { "in another file", HAS("2222222222222222"), { &other, NULL }, SPEC_SAME },
    { "edited", HAS("2222222222222222"), { &one, NULL }, SPEC_EDITED },
    { "mended", HAS(""), { &one, NULL }, SPEC_EDITED },
    { "broken", HAS("1111111111111111"), { &wrong, NULL }, SPEC_BROKEN },
    { "twice", HAS("1111111111111111"), { &one, &other }, SPEC_TWICE },
    { "twice from the start", NONE, { &one, &other }, SPEC_TWICE },
    { "one of two is left", .known = { .has_spec = true, .twice = true, .digest = "1111111111111111" }, .seen = { &one, NULL },
      .change = SPEC_EDITED },
    { "deleted", HAS("1111111111111111"), { 0 }, SPEC_GONE },
    { "deleted while it was broken", HAS(""), { 0 }, SPEC_GONE },
};

START_TEST(change)
{
    enum spec_change found = spec_change_of(&changes[_i].known, &changes[_i].seen);

    ck_assert_msg(found == changes[_i].change, "%s: %d, expected %d", changes[_i].what, (int)found, (int)changes[_i].change);
}
END_TEST

#define FILE_OK .has_file = true, .readable = true
#define RECORD .has_record = true, .here = true

static const struct {
    const char *what;
    struct edit_facts facts;
    enum edit_verdict verdict;
} verdicts[] = {
    { "untouched", { RECORD, FILE_OK, .same = true, .was_enabled = true, .enabled = true }, EDIT_NONE },
    { "applied by a command", { RECORD, FILE_OK, .known = true, .was_enabled = true, .enabled = true }, EDIT_NONE },
    { "disabled by a command that applied it", { RECORD, FILE_OK, .known = true, .was_enabled = true }, EDIT_NONE },
    { "edited", { RECORD, FILE_OK, .was_enabled = true, .enabled = true }, EDIT_COMPARE },
    { "disabled", { RECORD, FILE_OK, .was_enabled = true }, EDIT_DISABLED },
    { "started by a command though disabled, edited", { RECORD, FILE_OK }, EDIT_COMPARE },
    { "enabled, and runs already", { RECORD, FILE_OK, .enabled = true }, EDIT_COMPARE },
    { "can't be read", { RECORD, .has_file = true, .was_enabled = true }, EDIT_NONE },
    { "deleted", { RECORD, .was_enabled = true }, EDIT_GONE },
    { "deleted from another folder than this one", { .has_record = true, .was_enabled = true }, EDIT_NONE },
    { "of an older manager", { FILE_OK, .enabled = true }, EDIT_BASELINE },
    { "of an older manager, and disabled", { FILE_OK }, EDIT_BASELINE },
    { "of an older manager, can't be read", { .has_file = true }, EDIT_NONE },
    { "of an older manager, deleted", { 0 }, EDIT_NONE },
};

START_TEST(verdict)
{
    enum edit_verdict found = edit_verdict_of(&verdicts[_i].facts);

    ck_assert_msg(found == verdicts[_i].verdict, "%s: %d, expected %d", verdicts[_i].what, (int)found, (int)verdicts[_i].verdict);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("spec_change");
    TCase *tc = tcase_create("tables");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tc, change, 0, ARRAY_LEN(changes));
    tcase_add_loop_test(tc, verdict, 0, ARRAY_LEN(verdicts));
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#include "tests/unit/fixture.h"
static void add_tests(TCase *tc) { (void)tc; }
int main(void) { return fixture_main("x", add_tests); }

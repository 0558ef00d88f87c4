/* Named places where a test can kill or stop this very process. Only in builds with HOLDFAST_FAILPOINTS (the test presets); else
 * nothing at all remains.
 *
 * HOLDFAST_FAILPOINT="shim.after-lock=kill" (or stop, exit, hang); several separated by commas. With "@FILE" after the
 * action the point fires only while FILE exists, and removes FILE first, so it fires once. */
#pragma once

#ifdef HOLDFAST_FAILPOINTS
void failpoint_hit(const char *name);
#define FAILPOINT(name) failpoint_hit(name)
#else
#define FAILPOINT(name) ((void)0)
#endif

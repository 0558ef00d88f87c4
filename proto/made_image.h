/* Names of disks that are made of files: STATE/vms/NAME/LABEL-DIGEST.img. With what is in it in its name, a disk is made when its content is
 * new and at no other time, and a launch plan changes exactly when the content does. */
#pragma once

#include <stdbool.h>

enum { MADE_DIGEST_LEN = 32 }; /* hexadecimal digits of 128 bits */

#define MADE_IMAGE_SUFFIX ".img"
#define MADE_STAGING_PREFIX ".making-" /* folders in which one is put together, mode 0700 */

/* Whether it is such a name. */
bool made_image_is_name(const char *name);

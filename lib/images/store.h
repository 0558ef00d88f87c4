/* The store of images, STATE/images/NAME/VERSION/: what is there, looked up and held. Only the disk says what there is. No loop, no
 * network: safe on any thread and in any process, and everything here may block (on the disk alone).
 *
 * Whoever uses a release holds its lock (image_release_lock()) for as long as he needs the files, and a VM writes down which release it
 * was started with (image_use_write()) after it took the lock and before it starts: prune and delete pass over both. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/strv.h"
#include "lib/images/names.h"
#include "lib/images/release.h"

#define FOLDER_IMAGES "images"

struct image_store {
    int fd;
    char *path; /* absolute */
};

/* STATE/images, made when it is missing. */
int image_store_open(const char *state_dir, struct image_store *ret_store, struct err *err);
void image_store_close(struct image_store *store);
#define IMAGE_STORE_NONE ((struct image_store){ .fd = -1 })
#define auto_image_store auto_cleanup(image_store_close)

struct image_release {
    char *name, *version;       /* by its folder */
    char *path;                 /* absolute */
    struct image_record record; /* zeroed when it can't be read */
    uint64_t size;              /* of its files, each counted once */
    char *problem;              /* why it can't be used, NULL: it is verified */
};
void image_release_clear(struct image_release *release);
#define auto_image_release auto_cleanup(image_release_clear)

struct image_list {
    struct image_release *items;
    size_t n;
};
void image_list_clear(struct image_list *list);
#define auto_image_list auto_cleanup(image_list_clear)

/* One release; its files are looked at (size, time, inode), not read. -ENOENT: none of that name is here, also when a name is none. A
 * release that is damaged is found, with its problem. */
int image_release_read(const struct image_store *store, const char *name, const char *version, struct image_release *ret_release);

/* What a VM may start with: the release `version`, or of IMAGE_AUTO the newest one that is verified. -ENOENT with id "no-such-image"; a
 * named one that isn't verified is -EINVAL with id "damaged". */
int image_release_find(const struct image_store *store, const char *name, const char *version, struct image_release *ret_release,
                       struct err *err);

/* Those of one name (NULL: all), by name, each name's newest first (newest.h). What isn't a release's folder is passed over. */
int image_store_list(const struct image_store *store, const char *name, struct image_list *ret_list);

/* NULL: it has no file of that role. */
const struct image_file *image_release_file(const struct image_release *release, const char *role);
/* Its absolute path, malloc'ed; NULL: no such role, or out of memory. */
char *image_release_file_path(const struct image_release *release, const char *role);

/* Holds a release (flock(2), shared): it can't be deleted until the last copy of *ret_fd is closed, whatever process has it.
 * -ENOENT: it is gone, or just going. */
int image_release_lock(const struct image_store *store, const char *name, const char *version, int *ret_fd, struct err *err);

/* The release's folder as it is inside the store: "NAME/VERSION". -EINVAL when a name is none. */
enum { IMAGE_PATH_MAX = 2 * IMAGE_NAME_MAX + 24 };
int image_release_path(const char *name, const char *version, char buf[IMAGE_PATH_MAX]);

#include "lib/manager/qemu_cache.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/base/clock.h"
#include "lib/base/spawn.h"

enum { ANSWER_MAX = 64 * 1024 };

struct entry {
    struct entry *next;
    char *path;
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec mtime;
    struct qemu_capabilities capabilities;
    struct err err; /* set: it gave no answer */
    uint64_t failed_us;
    unsigned retry_ms; /* and how long that is believed */
};

struct qemu_cache {
    pthread_mutex_t mutex;
    struct entry *entries;
};

int qemu_cache_new(struct qemu_cache **ret_cache)
{
    struct qemu_cache *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    pthread_mutex_init(&c->mutex, NULL);
    *ret_cache = c;
    return 0;
}

static void entry_free(struct entry *e)
{
    qemu_capabilities_clear(&e->capabilities);
    free(e->path);
    free(e);
}
DEFINE_CLEANUP(struct entry *, entry, entry_free)

void qemu_cache_free(struct qemu_cache *c)
{
    if (!c)
        return;
    while (c->entries) {
        struct entry *e = c->entries;

        c->entries = e->next;
        entry_free(e);
    }
    pthread_mutex_destroy(&c->mutex);
    free(c);
}

static bool same_binary(const struct entry *e, const struct stat *st)
{
    return e->dev == st->st_dev && e->ino == st->st_ino && e->size == st->st_size && e->mtime.tv_sec == st->st_mtim.tv_sec &&
           e->mtime.tv_nsec == st->st_mtim.tv_nsec;
}

static struct entry **find(struct qemu_cache *c, const char *path)
{
    struct entry **p = &c->entries;

    while (*p && !streq((*p)->path, path))
        p = &(*p)->next;
    return p;
}

static int copy(const struct entry *e, struct qemu_capabilities *ret_capabilities)
{
    struct qemu_capabilities copied = { 0 };

    if (str_set(&copied.version, e->capabilities.version) < 0 || str_set(&copied.machine, e->capabilities.machine) < 0 ||
        str_set(&copied.machines, e->capabilities.machines) < 0 || str_set(&copied.features, e->capabilities.features) < 0) {
        qemu_capabilities_clear(&copied);
        return -ENOMEM;
    }
    *ret_capabilities = copied;
    return 0;
}

static int look(struct qemu_cache *c, const char *path, const struct stat *st, bool features, struct qemu_capabilities *ret_capabilities,
                struct err *err)
{
    const struct entry *e = *find(c, path);

    if (!e || !same_binary(e, st))
        return -EAGAIN;
    if (!err_is_set(&e->err) && features && !e->capabilities.features)
        return -EAGAIN;
    if (!err_is_set(&e->err))
        return copy(e, ret_capabilities);
    if (clock_mono_us() - e->failed_us > (uint64_t)e->retry_ms * 1000)
        return -EAGAIN;
    if (err)
        *err = e->err;
    return -e->err.code;
}

int qemu_cache_get(struct qemu_cache *c, const char *path, bool features, struct qemu_capabilities *ret_capabilities, struct err *err)
{
    struct stat st;
    int r;

    if (stat(path, &st) < 0)
        return err_set_errno(err, errno, "no-qemu", "QEMU at %s", path);
    pthread_mutex_lock(&c->mutex);
    r = look(c, path, &st, features, ret_capabilities, err);
    pthread_mutex_unlock(&c->mutex);
    return r;
}

static int ask_one(const char *path, const char *const *options, char **ret_text, struct err *err)
{
    char *argv[4] = { (char *)(uintptr_t)path };
    struct spawn_output output = { 0 };
    int r;

    for (size_t i = 0; options[i]; i++)
        argv[i + 1] = (char *)(uintptr_t)options[i];
    r = spawn_capture(&(struct spawn){ .path = path, .argv = argv, .go_fd = -1 }, QEMU_ASK_TIMEOUT_MS, ANSWER_MAX, &output);
    if (r < 0)
        return err_set_errno(err, -r, "no-qemu", "%s %s", path, options[0]);
    if (!WIFEXITED(output.wstatus) || WEXITSTATUS(output.wstatus) != 0) {
        char *line_end = strchr(output.err, '\n');

        if (line_end)
            *line_end = '\0';
        err_set(err, ENOEXEC, "no-qemu", "%s %s failed: %s", path, options[0], output.err);
        spawn_output_done(&output);
        return -ENOEXEC;
    }
    *ret_text = steal_ptr(&output.out);
    spawn_output_done(&output);
    return 0;
}

static int ask_features(const char *path, struct qemu_capabilities *capabilities, struct err *err)
{
    static const char *const questions[][3] = { { "-object", "help" }, { "-device", "help" }, { "-cpu", "help" } };
    char *texts[ARRAY_LEN(questions)] = { NULL };
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(questions) && r >= 0; i++)
        r = ask_one(path, questions[i], &texts[i], err);
    if (r >= 0)
        r = qemu_capabilities_parse_features(capabilities, texts[0], texts[1], texts[2]);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(texts[i]);
    return r;
}

static int ask(const char *path, bool features, struct qemu_capabilities *ret_capabilities, struct err *err)
{
    static const char *const version[] = { "-version", NULL };
    static const char *const machine[] = { "-machine", "help", NULL };
    auto_free char *version_text = NULL, *machine_text = NULL;
    int r;

    r = ask_one(path, version, &version_text, err);
    if (r >= 0)
        r = ask_one(path, machine, &machine_text, err);
    if (r >= 0)
        r = qemu_capabilities_parse(version_text, machine_text, ret_capabilities, err);
    if (r >= 0 && features) {
        r = ask_features(path, ret_capabilities, err);
        if (r < 0)
            qemu_capabilities_clear(ret_capabilities);
    }
    return r;
}

static void put_take(struct qemu_cache *c, struct entry *e)
{
    struct entry **p = find(c, e->path), *old = *p;

    if (old) {
        *p = old->next;
        entry_free(old);
    }
    e->next = c->entries;
    c->entries = e;
}

/* The host's trouble of a moment says nothing about the binary. */
static bool is_passing(int r) { return r == -EAGAIN || r == -EMFILE || r == -ENFILE || r == -ENOMEM; }

int qemu_cache_ask(struct qemu_cache *c, const char *path, bool features, struct err *err)
{
    struct qemu_capabilities known = { 0 };
    struct entry *e __attribute__((cleanup(entry_cleanup))) = NULL;
    struct stat st;
    int r;

    /* Somebody asked while we waited for our turn? */
    r = qemu_cache_get(c, path, features, &known, err);
    qemu_capabilities_clear(&known);
    if (r != -EAGAIN)
        return r;
    if (stat(path, &st) < 0)
        return err_set_errno(err, errno, "no-qemu", "QEMU at %s", path);
    e = calloc(1, sizeof(*e));
    if (!e || str_set(&e->path, path) < 0)
        return -ENOMEM;
    e->dev = st.st_dev;
    e->ino = st.st_ino;
    e->size = st.st_size;
    e->mtime = st.st_mtim;
    r = ask(path, features, &e->capabilities, &e->err);
    if (r < 0) {
        err_from(&e->err, r, "asking QEMU what it can do");
        if (e->err.code == EAGAIN) /* no process could be had; from us it means: not asked yet */
            e->err.code = ENOEXEC;
        e->failed_us = clock_mono_us();
        e->retry_ms = is_passing(r) ? QEMU_RETRY_SOON_MS : QEMU_RETRY_MS;
        if (err)
            *err = e->err;
    }
    pthread_mutex_lock(&c->mutex);
    put_take(c, steal_ptr(&e));
    pthread_mutex_unlock(&c->mutex);
    return r;
}

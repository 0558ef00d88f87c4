/* Snapshots of disks with a real QEMU, which runs as nobody in particular as in production: the order of commands of shim/layers.h, what the
 * guest's disks then hold, and which files change. No guest runs; QEMU's own qemu-io reads and writes through the device. */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/json.h"
#include "lib/base/pidref.h"
#include "lib/base/socket.h"
#include "lib/base/spawn.h"
#include "lib/qemu/qmp.h"
#include "lib/qemu/resolve.h"
#include "shim/layers.h"
#include "shim/qemu_files.h"
#include "tests/unit/fixture.h"

enum { NOBODY = 64321, DISK_SIZE = 64 << 20, COMMAND_TIMEOUT_MS = 30 * 1000, OUTPUT_MAX = 1 << 16 };

struct machine {
    struct plan plan;
    int state;
    pid_t pid;
    FILE *monitor;
    bool runs;   /* not a guest, but the firmware, which finds none */
    size_t n_io; /* what it was asked to read and write */
};

static void run(const char *path, char *const *argv)
{
    struct spawn_output out = { 0 };
    ck_assert_int_eq(spawn_capture(&(struct spawn){ .path = path, .argv = argv, .go_fd = -1 }, COMMAND_TIMEOUT_MS, OUTPUT_MAX, &out), 0);
    ck_assert_msg(out.wstatus == 0, "%s", out.err);
    spawn_output_done(&out);
}

static int folder(const char *parent, const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", parent, name);
    ck_assert_int_eq(mkdir(path, 0755), 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return fd;
}

/* A VM with a qcow2 disk, a raw one and one that is only read. */
static void machine_make(const char *name, struct machine *m)
{
    static const char spec_text[] = "{\"name\":\"v\",\"memory\":\"64M\",\"disks\":[{\"name\":\"root\",\"size\":\"64M\"},"
                                    "{\"name\":\"fast\",\"size\":\"64M\",\"format\":\"raw\"},"
                                    "{\"name\":\"seed\",\"size\":\"1M\",\"readonly\":true}]}";
    char machine[] = "pc-q35-7.2", version[] = "7.2.22", path[128];
    const struct qemu_capabilities capabilities = { .version = version, .machine = machine };
    auto_json json_t *json = NULL;
    auto_spec struct spec spec = { 0 };
    struct err err = ERR_INIT;
    *m = (struct machine){ .state = folder(fixture.path, name, path), .pid = -1 };
    ck_assert_int_eq(json_parse(spec_text, strlen(spec_text), &json, NULL), 0);
    ck_assert_int_eq(spec_parse(json, NULL, NULL, &spec), 0);
    const struct resolve_input in = {
        .spec = &spec,
        .capabilities = &capabilities,
        .qemu_path = "/usr/bin/qemu-system-x86_64",
        .qemu_img_path = "/usr/bin/qemu-img",
        .run_dir = path,
        .state_dir = path,
        .log_dir = path,
    };
    ck_assert_msg(plan_resolve(&in, &m->plan, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < m->plan.n_prepare; i++) {
        run(m->plan.prepare[i].argv[0], m->plan.prepare[i].argv);
        ck_assert_int_eq(rename(m->plan.prepare[i].writes, m->plan.prepare[i].creates), 0);
    }
}

static int open_files(void *arg)
{
    const struct layered *layered = arg;
    int r = 0;
    for (size_t i = 0; i < layered->n_files && r == 0; i++)
        r = qemu_file_open(&layered->files[i]);
    if (r == 0 && geteuid() == 0 &&
        (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) < 0 ||
         syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) < 0))
        r = -errno;
    return r;
}

/* What a command returned, of which the caller has a reference; or NULL, and its error in `err`. Events are passed over. */
static json_t *ask(struct machine *m, int fd, const char *command, const json_t *arguments, struct err *err)
{
    auto_free char *line = NULL, *answer = NULL;
    size_t len = 0, room = 0;
    ck_assert_int_eq(qmp_command(command, arguments, 1, &line, &len), 0);
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec text = { line, len };
    struct msghdr message = { .msg_iov = &text, .msg_iovlen = 1 };
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        *head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
        memcpy(CMSG_DATA(head), &fd, sizeof(fd));
    }
    ck_assert_int_eq(sendmsg(fileno(m->monitor), &message, 0), len);
    for (ssize_t n; (n = getline(&answer, &room, m->monitor)) > 0;) {
        auto_qmp_message struct qmp_message parsed = { 0 };
        ck_assert_int_eq(qmp_parse(answer, (size_t)n, &parsed, NULL), 0);
        if (parsed.kind == QMP_RETURN)
            return json_incref(json_object_get(parsed.json, "return"));
        if (parsed.kind == QMP_ERROR) {
            (void)err_set(err, EREMOTEIO, "qmp", "%s: %s", command, parsed.text);
            return NULL;
        }
    }
    ck_abort_msg("QEMU hung up at %s", command);
    return NULL;
}

static json_t *must(struct machine *m, int fd, const char *command, json_t *arguments_consume)
{
    auto_json json_t *arguments = arguments_consume;
    struct err err = ERR_INIT;
    json_t *answer = ask(m, fd, command, arguments, &err);
    ck_assert_msg(answer != NULL, "%s", err.text);
    return answer;
}

static void start(struct machine *m, const struct disks *disks)
{
    auto_layered struct layered layered = { 0 };
    struct err err = ERR_INIT;
    char name[] = "q", greeting[4096], socket_path[128];
    ck_assert_msg(layers_apply(&m->plan, disks, &layered, &err) == 0, "%s", err.text);
    auto_fd int qmp = socket_listen(m->state, name, 0600, 4), console = socket_listen(m->state, "c", 0600, 4);
    auto_fd int ram = memfd_create("ram", MFD_CLOEXEC),
                log = openat(m->state, "log", O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    m->n_io = 0;
    ck_assert_int_eq(ftruncate(ram, (off_t)m->plan.ram.size), 0);
    const struct spawn_fd fds[] = { { log, 1 }, { log, 2 }, { qmp, PLAN_FD_QMP }, { console, PLAN_FD_CONSOLE }, { ram, PLAN_FD_RAM } };
    const struct spawn spawn = { .path = m->plan.qemu.path,
                                 .argv = layered.argv.items,
                                 .env = m->plan.qemu.env,
                                 .fds = fds,
                                 .n_fds = ARRAY_LEN(fds),
                                 .go_fd = -1,
                                 .prepare = open_files,
                                 .prepare_arg = &layered };
    ck_assert_int_eq(spawn_child(&spawn, &m->pid), 0);
    int fd = socket_connect(m->state, name);
    qmp = fd_close(qmp); /* one that can't start hangs up */
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fd_set_nonblock(fd, false), 0);
    m->monitor = fdopen(fd, "r+");
    ck_assert_ptr_nonnull(fgets(greeting, sizeof(greeting), m->monitor));
    json_decref(must(m, -1, "qmp_capabilities", NULL));
    if (m->runs)
        json_decref(must(m, -1, "cont", NULL));
    snprintf(socket_path, sizeof(socket_path), "%s/q", m->plan.state_dir);
    unlink(socket_path);
    snprintf(socket_path, sizeof(socket_path), "%s/c", m->plan.state_dir);
    unlink(socket_path);
}

/* qemu-io tells on QEMU's stdout, which is written out at the end: each read must have found its pattern. */
static void check_io(struct machine *m)
{
    auto_free char *text = NULL;
    size_t len = 0, n = 0;
    ck_assert_int_eq(file_read(m->state, "log", OUTPUT_MAX, &text, &len), 0);
    for (const char *p = text; (p = strstr(p, " 65536/65536 bytes at offset ")); p++)
        n++;
    ck_assert_msg(n == m->n_io && !strstr(text, "failed"), "%s", text);
}

static void stop(struct machine *m)
{
    int wstatus = -1;
    json_decref(must(m, -1, "quit", NULL));
    ck_assert_int_eq(fclose(m->monitor), 0);
    ck_assert_int_eq(waitpid(m->pid, &wstatus, 0), m->pid);
    ck_assert_int_eq(wstatus, 0);
    check_io(m);
}

static void machine_clear(struct machine *m)
{
    plan_clear(&m->plan);
    m->state = fd_close(m->state);
}

static void io(struct machine *m, int disk, const char *command)
{
    auto_free char *line = NULL;
    ck_assert_int_eq(str_format(&line, "qemu-io -d disk%d/virtio-backend \"%s\"", disk, command), 0);
    json_decref(must(m, -1, "human-monitor-command", json_pack("{ss}", "command-line", line)));
    m->n_io++;
}

static uint64_t digest(const char *path)
{
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    auto_free char *data = NULL;
    size_t len = 0;
    ck_assert_int_eq(fd_read_all(fd, 2 * DISK_SIZE, &data, &len), 0);
    return hash_bytes(HASH_BEGIN, data, len);
}

static int prepare(struct machine *m, const struct disks *disks, struct freeze *freeze, struct err *err)
{
    auto_json json_t *blocks = must(m, -1, "query-block", NULL), *fdsets = must(m, -1, "query-fdsets", NULL);
    auto_pidref struct pidref qemu = PIDREF_NONE;
    const struct freeze_input in = { m->state, &m->plan, disks, blocks, fdsets, &qemu };
    ck_assert_int_eq(pidref_open(m->pid, &qemu), 0);
    return layers_freeze_prepare(&in, freeze, err);
}

static void add_overlays(struct machine *m, const struct freeze *freeze)
{
    for (size_t i = 0; i < freeze->n_disks; i++) {
        const struct frozen_disk *disk = &freeze->disks[i];
        uint64_t set = 0;
        if (disk->readonly)
            continue;
        auto_json json_t *added = must(m, disk->overlay_fd, "add-fd", NULL);
        ck_assert_int_eq(layers_fdset(added, &set), 0);
        json_decref(must(m, -1, "blockdev-add", layers_overlay_node(disk, set)));
        json_decref(must(m, disk->frozen_fd, "add-fd", layers_frozen_fd(disk)));
    }
}

static void commit(struct machine *m, const struct freeze *freeze)
{
    if (m->runs)
        json_decref(must(m, -1, "stop", NULL));
    json_decref(must(m, -1, "transaction", layers_transaction(freeze)));
    if (m->runs)
        json_decref(must(m, -1, "cont", NULL));
    ck_assert_int_eq(layers_unlock(freeze), 0);
    for (size_t i = 0; i < freeze->n_disks; i++)
        if (!freeze->disks[i].readonly)
            json_decref(must(m, -1, "remove-fd", layers_written_fd(&freeze->disks[i])));
}

/* A whole snapshot of the disks, kept in folder `name`. `disks` becomes the record of what is written from now on. */
static void freeze_disks(struct machine *m, const char *name, struct disks *disks, struct snapshot *ret)
{
    auto_freeze struct freeze freeze = { 0 };
    struct err err = ERR_INIT;
    char path[128];
    auto_fd int kept = folder(fixture.path, name, path);
    ck_assert_msg(prepare(m, disks, &freeze, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(freeze.n_disks, 3);
    add_overlays(m, &freeze);
    layers_presync(&freeze);
    ck_assert_int_eq(layers_store(m->state, &freeze.record, NULL), 0);
    commit(m, &freeze);
    ck_assert_msg(layers_link(&freeze, kept, path, ret, &err) == 0, "%s", err.text);
    disks_clear(disks);
    ck_assert_int_eq(layers_load(m->state, &m->plan, disks, NULL), 0);
}

/* Nodes of the disks that QEMU may write to: its own word. */
static size_t count_writable(struct machine *m)
{
    auto_json json_t *nodes = must(m, -1, "query-named-block-nodes", json_pack("{sb}", "flat", 1));
    size_t i, n = 0;
    const json_t *node;
    json_array_foreach (nodes, i, node)
        n += json_is_false(json_object_get(node, "ro"));
    return n;
}

START_TEST(a_chain_of_snapshots)
{
    struct machine m;
    auto_disks struct disks disks = { .schema = DISKS_SCHEMA };
    auto_snapshot struct snapshot one = { 0 }, two = { 0 }, three = { 0 };
    machine_make("v", &m);
    m.runs = true;
    start(&m, &disks);
    io(&m, 0, "write -P 1 0 64k");
    io(&m, 1, "write -P 2 0 64k");
    freeze_disks(&m, "one", &disks, &one);
    ck_assert_uint_eq(count_writable(&m), 4); /* two overlays and their files */
    ck_assert_uint_eq(one.disks[0].size, DISK_SIZE);
    ck_assert_uint_eq(one.disks[0].n_layers, 1);
    ck_assert_str_eq(strrchr(one.disks[1].layers[0].path, '/'), "/disk1.raw");
    ck_assert(one.disks[2].readonly);
    uint64_t root = digest(one.disks[0].layers[0].path), fast = digest(one.disks[1].layers[0].path);
    io(&m, 0, "read -P 1 0 64k");
    io(&m, 0, "write -P 3 64k 64k");
    io(&m, 1, "write -P 4 0 64k");
    freeze_disks(&m, "two", &disks, &two);
    ck_assert_uint_eq(count_writable(&m), 4);
    ck_assert_uint_eq(two.disks[0].n_layers, 2);
    uint64_t second = digest(two.disks[0].layers[0].path);
    io(&m, 0, "write -P 5 0 64k");
    io(&m, 0, "discard 64k 64k");
    stop(&m);
    ck_assert(digest(one.disks[0].layers[0].path) == root && digest(one.disks[1].layers[0].path) == fast);
    ck_assert(digest(two.disks[0].layers[0].path) == second);
    /* By the record alone, as after a crash of the host. */
    ck_assert_int_eq(layers_sweep(m.state, &disks), 0);
    start(&m, &disks);
    ck_assert_uint_eq(count_writable(&m), 4);
    io(&m, 0, "read -P 5 0 64k");
    io(&m, 0, "read -P 0 64k 64k");
    io(&m, 1, "read -P 4 0 64k");
    freeze_disks(&m, "three", &disks, &three);
    ck_assert_uint_eq(three.disks[0].n_layers, 3);
    io(&m, 1, "read -P 4 0 64k");
    stop(&m);
    char img[] = "qemu-img", check[] = "check", quiet[] = "-q", *argv[] = { img, check, quiet, disks.disks[0].layers[0].path, NULL };
    run("/usr/bin/qemu-img", argv);
    argv[3] = three.disks[1].layers[0].path;
    run("/usr/bin/qemu-img", argv);
    machine_clear(&m);
}
END_TEST

/* Paused for good (_i is 0), and running. */
START_TEST(a_clone_beside_its_origin)
{
    struct machine m, clone;
    auto_disks struct disks disks = { .schema = DISKS_SCHEMA }, none = { .schema = DISKS_SCHEMA }, cloned = { 0 };
    auto_snapshot struct snapshot one = { 0 };
    struct err err = ERR_INIT;
    char name[] = "one";
    machine_make("v", &m);
    machine_make("w", &clone);
    m.runs = clone.runs = _i;
    start(&m, &disks);
    io(&m, 0, "write -P 1 0 64k");
    io(&m, 1, "write -P 2 0 64k");
    freeze_disks(&m, name, &disks, &one);
    one.name = strdup(name);
    io(&m, 0, "write -P 7 0 64k");
    ck_assert_msg(layers_restore(clone.state, &clone.plan, &one, &none, &cloned, &err) == 0, "%s", err.text);
    start(&clone, &cloned);
    io(&clone, 0, "read -P 1 0 64k");
    io(&clone, 1, "read -P 2 0 64k");
    io(&clone, 0, "write -P 8 0 64k");
    io(&m, 0, "read -P 7 0 64k");
    stop(&m);
    /* Neither origin nor snapshot is needed any more. */
    machine_clear(&m);
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "v"), 0);
    ck_assert_int_eq(dir_remove_tree(fixture.dir, name), 0);
    ck_assert_int_eq(layers_store(clone.state, &cloned, NULL), 0);
    stop(&clone);
    ck_assert_int_eq(layers_sweep(clone.state, &cloned), 0);
    struct snapshot_layer *seed = disks_find(&cloned, one.disks[2].layers[0].path) ? NULL : cloned.disks[2].layers;
    ck_assert_str_eq(seed->path, one.disks[2].layers[0].path); /* the read-only disk was the origin's own, and went with it */
    ck_assert_int_eq(disks_set(&cloned, cloned.disks[2].plan_path, &(struct snapshot_layer){ cloned.disks[2].plan_path, seed->format }, 1),
                     0);
    start(&clone, &cloned);
    io(&clone, 0, "read -P 8 0 64k");
    io(&clone, 1, "read -P 2 0 64k");
    stop(&clone);
    /* A snapshot of other disks. */
    one.n_disks--;
    auto_disks struct disks refused = { 0 };
    ck_assert_int_eq(layers_restore(clone.state, &clone.plan, &one, &none, &refused, &err), -EINVAL);
    ck_assert_str_eq(err.id, "other-disks");
    one.n_disks++;
    machine_clear(&clone);
}
END_TEST

START_TEST(a_crash_before_the_transaction_loses_nothing)
{
    struct machine m;
    auto_disks struct disks disks = { .schema = DISKS_SCHEMA };
    auto_freeze struct freeze lost = { 0 };
    auto_snapshot struct snapshot one = { 0 };
    machine_make("v", &m);
    start(&m, &disks);
    io(&m, 0, "write -P 1 0 64k");
    ck_assert_int_eq(prepare(&m, &disks, &lost, NULL), 0);
    ck_assert_int_eq(layers_store(m.state, &lost.record, NULL), 0);
    /* The shim dies here. Its replacement goes by the record, QEMU writes on to where it wrote. */
    io(&m, 0, "write -P 2 0 64k");
    ck_assert_int_eq(layers_load(m.state, &m.plan, &disks, NULL), 0);
    ck_assert_uint_eq(disks.disks[0].n_layers, 2);
    freeze_disks(&m, "one", &disks, &one);
    ck_assert_uint_eq(one.disks[0].n_layers, 1); /* the overlay nobody wrote to isn't part of it */
    ck_assert_str_eq(strrchr(disks.disks[0].layers[0].path, '/'), "/disk0-2.qcow2");
    stop(&m);
    start(&m, &lost.record);
    io(&m, 0, "read -P 2 0 64k");
    stop(&m);
    ck_assert_int_eq(layers_sweep(m.state, &disks), 0);
    ck_assert(!fixture_exists("v/layers/disk0-1.qcow2") && fixture_exists("v/layers/disk0-2.qcow2"));
    machine_clear(&m);
}
END_TEST

START_TEST(a_failed_transaction_is_undone)
{
    struct machine m;
    auto_disks struct disks disks = { .schema = DISKS_SCHEMA };
    auto_freeze struct freeze freeze = { 0 };
    auto_snapshot struct snapshot one = { 0 };
    struct err err = ERR_INIT;
    machine_make("v", &m);
    start(&m, &disks);
    ck_assert_int_eq(prepare(&m, &disks, &freeze, NULL), 0);
    add_overlays(&m, &freeze);
    auto_json json_t *transaction = layers_transaction(&freeze);
    json_t *last = json_array_get(json_object_get(transaction, "actions"), 1);
    json_object_set_new(json_object_get(last, "data"), "node", json_string("nobody"));
    ck_assert_ptr_null(ask(&m, -1, "transaction", transaction, &err));
    for (size_t i = 0; i < 2; i++)
        json_decref(must(&m, -1, "blockdev-del", json_pack("{ss}", "node-name", freeze.disks[i].overlay)));
    ck_assert_int_eq(layers_freeze_undo(m.state, &freeze), 0);
    ck_assert(!fixture_exists("v/layers/disk0-1.qcow2"));
    io(&m, 0, "write -P 1 0 64k");
    freeze_disks(&m, "one", &disks, &one);
    io(&m, 0, "read -P 1 0 64k");
    stop(&m);
    machine_clear(&m);
}
END_TEST

START_TEST(a_file_that_was_replaced_is_not_snapshotted)
{
    struct machine m;
    auto_disks struct disks disks = { .schema = DISKS_SCHEMA };
    auto_freeze struct freeze freeze = { 0 };
    struct err err = ERR_INIT;
    machine_make("v", &m);
    start(&m, &disks);
    ck_assert_int_eq(renameat(m.state, "fast.raw", m.state, "old.raw"), 0);
    ck_assert_int_eq(prepare(&m, &disks, &freeze, &err), -ESTALE);
    ck_assert_str_eq(err.id, "stale-disk");
    fixture_write("v/fast.raw", "x");
    ck_assert_int_eq(prepare(&m, &disks, &freeze, &err), -ESTALE);
    ck_assert(!fixture_exists("v/layers/disk0-1.qcow2")); /* what was made for the first disk is gone */
    stop(&m);
    machine_clear(&m);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, a_chain_of_snapshots);
    tcase_add_loop_test(tc, a_clone_beside_its_origin, 0, 2);
    tcase_add_test(tc, a_crash_before_the_transaction_loses_nothing);
    tcase_add_test(tc, a_failed_transaction_is_undone);
    tcase_add_test(tc, a_file_that_was_replaced_is_not_snapshotted);
}

int main(void) { return fixture_main("freeze", add_tests); }

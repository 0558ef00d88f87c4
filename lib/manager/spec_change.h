/* What a look at the specs means for a VM. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct spec_entry;

/* What the manager knows of a VM's spec. */
struct spec_known {
    bool has_spec;
    bool twice;         /* it was in two files */
    const char *digest; /* of its content, "": not known */
};

/* What is in the folder of it. */
struct spec_seen {
    const struct spec_entry *first, *second; /* NULL: none */
};

enum spec_change {
    SPEC_SAME,
    SPEC_NEW,    /* it has none, and there is one */
    SPEC_EDITED, /* its content is another */
    SPEC_BROKEN, /* its file can't be read */
    SPEC_TWICE,  /* two files have it */
    SPEC_GONE,   /* it had one, and no file has it */
};

enum spec_change spec_change_of(const struct spec_known *known, const struct spec_seen *seen);

/* Of a VM that lives: what it was launched with, beside what its file says now. */
struct edit_facts {
    bool has_record; /* of the spec it was launched with */
    bool here;       /* that was read in this folder of specs */
    bool has_file;   /* its spec is there … */
    bool readable;   /* … and can be read, and has no mistake */
    bool same;       /* as the recorded one */
    bool known;      /* it was applied by a command, which leaves the restart to its user */
    bool was_enabled, enabled;
};

enum edit_verdict {
    EDIT_NONE,
    EDIT_BASELINE, /* nothing is known to compare with: what there is counts from here on */
    EDIT_GONE,     /* its file was deleted while nobody looked */
    EDIT_DISABLED, /* to be stopped */
    EDIT_COMPARE,  /* the plans of both tell whether it matters */
};

enum edit_verdict edit_verdict_of(const struct edit_facts *f);

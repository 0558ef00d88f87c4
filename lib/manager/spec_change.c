#include "lib/manager/spec_change.h"

#include "lib/base/util.h"
#include "lib/manager/spec_folder.h"

enum spec_change spec_change_of(const struct spec_known *known, const struct spec_seen *seen)
{
    if (!seen->first)
        return known->has_spec ? SPEC_GONE : SPEC_SAME;
    if (seen->second)
        return SPEC_TWICE;
    if (seen->first->error)
        return SPEC_BROKEN;
    if (!known->has_spec)
        return SPEC_NEW;
    return known->twice || !streq(known->digest, seen->first->digest) ? SPEC_EDITED : SPEC_SAME;
}

enum edit_verdict edit_verdict_of(const struct edit_facts *f)
{
    if (!f->has_record)
        return f->has_file && f->readable ? EDIT_BASELINE : EDIT_NONE;
    if (!f->has_file)
        return f->here ? EDIT_GONE : EDIT_NONE;
    if (!f->readable || f->same || f->known)
        return EDIT_NONE;
    return f->was_enabled && !f->enabled ? EDIT_DISABLED : EDIT_COMPARE;
}

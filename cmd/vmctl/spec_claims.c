#include "cmd/vmctl/spec_claims.h"

#include "cmd/vmctl/output.h"

struct claimant {
    char *shown, *name;
    struct claims claims;
};

struct comparison {
    struct spec_file *file;
    const struct claims *mine;
    const struct claimant *other;
};

static void found(void *arg, const struct conflict *conflict)
{
    const struct comparison *c = arg;
    char pointer[CLAIM_TEXT_MAX], mine[CLAIM_TEXT_MAX], theirs[CLAIM_TEXT_MAX];
    auto_free char *reason = NULL;

    claim_pointer(c->mine, conflict->kind, conflict->mine, spec_is_spvm(c->file->json), pointer);
    claim_text(c->mine, conflict->kind, conflict->mine, mine);
    claim_text(&c->other->claims, conflict->kind, conflict->theirs, theirs);
    bool same = streq(mine, theirs);
    if (str_format(&reason, "%s is taken by VM %s in %s%s%s%s", mine, c->other->name, c->other->shown, same ? "" : " (", same ? "" : theirs,
                   same ? "" : ")") < 0)
        must(NULL);
    spec_file_add_problem(c->file, pointer, reason);
}

void claimants_add(struct claimants *c, struct spec_file *f)
{
    struct claimant one = { 0 };

    if (!f->spec.enabled)
        return;
    if (claims_from_spec(&f->spec, &one.claims) < 0)
        must(NULL);
    for (size_t i = 0; i < c->n; i++)
        claims_compare(&one.claims, &c->items[i].claims, found, &(struct comparison){ f, &one.claims, &c->items[i] });
    one.shown = must(strdup(f->shown));
    one.name = must(strdup(f->spec.name));
    c->items = must(reallocarray(c->items, c->n + 1, sizeof(*c->items)));
    c->items[c->n++] = one;
}

void claimants_clear(struct claimants *c)
{
    for (size_t i = 0; i < c->n; i++) {
        claims_clear(&c->items[i].claims);
        free(c->items[i].shown);
        free(c->items[i].name);
    }
    free(c->items);
    *c = (struct claimants){ 0 };
}

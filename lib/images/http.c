#include "lib/images/http.h"

#include <curl/curl.h>
#include <errno.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"

enum { REDIRECTS_MAX = 5, BUFFER_SIZE = 256 * 1024, SLOW_BYTES = 1024, HEADER_MAX = 512 };

struct request {
    struct image_task *task;
    const struct http_get *get;
    CURL *curl;
    struct err *err;
    int r; /* of what a callback did */
    bool begun;
    char etag[HEADER_MAX], modified[HEADER_MAX], range[HEADER_MAX];
    char words[CURL_ERROR_SIZE];
};

int http_init(void) { return curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? 0 : -EIO; }

/* ---- URLs ---- */

static char *part(const char *url, CURLUPart which)
{
    CURLU *u = curl_url();
    char *text = NULL, *copy = NULL;

    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(u, which, &text, 0) == CURLUE_OK)
        copy = strdup(text);
    curl_free(text);
    curl_url_cleanup(u);
    return copy;
}

static bool host_fits(const char *host, const char *allowed)
{
    size_t len = strlen(host), tail;

    if (!has_prefix(allowed, "*."))
        return strcasecmp(host, allowed) == 0;
    tail = strlen(allowed) - 1; /* with its dot */
    return len > tail && strcasecmp(host + len - tail, allowed + 1) == 0;
}

bool http_url_is_allowed(const char *url, const char *base, char *const *hosts)
{
    auto_free char *host = part(url, CURLUPART_HOST), *home = part(base, CURLUPART_HOST), *scheme = part(url, CURLUPART_SCHEME);
    bool fits;

    if (!host || !home || !scheme || !(streq(scheme, "https") || (streq(scheme, "http") && has_prefix(base, "http://"))))
        return false;
    fits = strcasecmp(host, home) == 0;
    for (char *const *one = hosts; one && *one && !fits; one++)
        fits = host_fits(host, *one);
    return fits;
}

int http_url_resolve(const char *base, const char *reference, char **ret_url)
{
    CURLU *u = curl_url();
    char *text = NULL;
    int r = u ? -EINVAL : -ENOMEM;

    if (u && curl_url_set(u, CURLUPART_URL, base, 0) == CURLUE_OK && curl_url_set(u, CURLUPART_URL, reference, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_URL, &text, 0) == CURLUE_OK)
        r = str_set(ret_url, text);
    curl_free(text);
    curl_url_cleanup(u);
    return r;
}

/* How much of a URL goes into messages: what follows may be somebody's key. */
static int shown(const char *url) { return (int)strcspn(url, "?#"); }

/* ---- one answer ---- */

static void take_header(const char *line, size_t len, const char *name, char buf[HEADER_MAX])
{
    size_t name_len = strlen(name);

    if (len <= name_len || strncasecmp(line, name, name_len) != 0)
        return;
    line += name_len;
    len -= name_len;
    while (len > 0 && (*line == ' ' || *line == '\t')) {
        line++;
        len--;
    }
    while (len > 0 && strchr("\r\n \t", line[len - 1]))
        len--;
    if (len < HEADER_MAX) {
        memcpy(buf, line, len);
        buf[len] = '\0';
    }
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    struct request *q = arg;

    if (size * n >= 5 && strncasecmp(line, "HTTP/", 5) == 0)
        q->etag[0] = q->modified[0] = q->range[0] = '\0'; /* another answer begins, as after 100 Continue */
    take_header(line, size * n, "etag:", q->etag);
    take_header(line, size * n, "last-modified:", q->modified);
    take_header(line, size * n, "content-range:", q->range);
    return size * n;
}

/* "bytes 100-199/200"; RFC 9110, 14.4. */
static int read_range(const char *text, struct http_head *head)
{
    auto_free char *copy = has_prefix(text, "bytes ") ? strdup(text + strlen("bytes ")) : NULL;
    char *dash = copy ? strchr(copy, '-') : NULL, *slash = copy ? strchr(copy, '/') : NULL;

    if (!dash || !slash || slash < dash)
        return -EINVAL;
    *dash = *slash = '\0';
    if (parse_u64(copy, 0, INT64_MAX, &head->offset) < 0)
        return -EINVAL;
    return streq(slash + 1, "*") ? 0 : parse_u64(slash + 1, 1, INT64_MAX, &head->size);
}

static int begin(struct request *q)
{
    struct http_head head = { 0 };
    curl_off_t length = -1;
    long status = 0;

    (void)curl_easy_getinfo(q->curl, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(q->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (status == 206) {
        head.partial = true;
        if (read_range(q->range, &head) < 0)
            return err_set(q->err, EAGAIN, "source", "%.*s: an answer in part that doesn't say which", shown(q->get->url), q->get->url);
    } else if (length > 0) {
        head.size = (uint64_t)length;
    }
    /* A weak one is of no use for parts: RFC 9110, 13.1.5. */
    if (q->etag[0] && !has_prefix(q->etag, "W/"))
        head.validator = q->etag;
    else if (q->modified[0])
        head.validator = q->modified;
    q->begun = true;
    return q->get->begin ? q->get->begin(q->get->arg, &head, q->err) : 0;
}

static bool is_body(const struct request *q)
{
    long status = 0;

    (void)curl_easy_getinfo(q->curl, CURLINFO_RESPONSE_CODE, &status);
    return status == 200 || status == 206;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct request *q = arg;
    size_t len = size * n;

    if (!is_body(q))
        return len; /* the words of an error page */
    if (!q->begun)
        q->r = begin(q);
    if (q->r >= 0)
        q->r = q->get->data(q->get->arg, data, len, q->err);
    return q->r < 0 ? 0 : len;
}

static int on_progress(void *arg, curl_off_t total, curl_off_t now, curl_off_t upload_total, curl_off_t upload)
{
    const struct request *q = arg;

    return image_task_is_cancelled(q->task) ? 1 : 0;
}

static struct curl_slist *headers_of(const struct http_get *get, bool *failed)
{
    struct curl_slist *list = NULL, *longer;
    auto_free char *range = NULL, *if_range = NULL;

    if (get->from == 0)
        return NULL;
    if (str_format(&range, "Range: bytes=%llu-", (unsigned long long)get->from) < 0 ||
        (get->validator && str_format(&if_range, "If-Range: %s", get->validator) < 0)) {
        *failed = true;
        return NULL;
    }
    list = curl_slist_append(NULL, range);
    longer = if_range && list ? curl_slist_append(list, if_range) : list;
    *failed = !longer;
    if (!longer)
        curl_slist_free_all(list);
    return longer;
}

static void set_options(struct request *q, const char *url, struct curl_slist *headers)
{
    const struct images_config *config = q->task->config;
    CURL *c = q->curl;

    (void)curl_easy_setopt(c, CURLOPT_URL, url);
    (void)curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(c, CURLOPT_PROXY, config->proxy ? config->proxy : ""); /* "": not the environment's either */
    if (config->ca_file)
        (void)curl_easy_setopt(c, CURLOPT_CAINFO, config->ca_file);
    (void)curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(c, CURLOPT_USERAGENT, "holdfast-imaged/" HOLDFAST_VERSION);
    (void)curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)config->connect_timeout_ms);
    (void)curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES);
    (void)curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)((config->stall_timeout_ms + 999) / 1000));
    (void)curl_easy_setopt(c, CURLOPT_BUFFERSIZE, (long)BUFFER_SIZE);
    (void)curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(c, CURLOPT_HEADERDATA, q);
    (void)curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    (void)curl_easy_setopt(c, CURLOPT_WRITEDATA, q);
    (void)curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    (void)curl_easy_setopt(c, CURLOPT_XFERINFODATA, q);
    (void)curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    (void)curl_easy_setopt(c, CURLOPT_ERRORBUFFER, q->words);
}

static int curl_failed(const struct request *q, const char *url, CURLcode code, struct err *err)
{
    const char *words = q->words[0] ? q->words : curl_easy_strerror(code);

    if (image_task_is_cancelled(q->task))
        return image_task_cancelled(err);
    switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
        return err_set(err, EACCES, "tls", "%.*s: %s (a CA of your own: \"ca_file\" in the host config)", shown(url), url, words);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return err_set(err, EACCES, "bad-url", "%.*s: %s", shown(url), url, words);
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    default:
        return err_set(err, EAGAIN, "source", "%.*s: %s", shown(url), url, words);
    }
}

static int status_failed(const char *url, long status, struct err *err)
{
    int code = status == 404 || status == 410 ? ENOENT : status == 416 ? ERANGE : EAGAIN;

    return err_set(err, code, "source", "%.*s: HTTP status %ld", shown(url), url, status);
}

/* One request. 1: *ret_next is where it is to be found, malloc'ed. */
static int perform(struct request *q, const char *url, char **ret_next)
{
    bool failed = false;
    struct curl_slist *headers = headers_of(q->get, &failed);
    const char *next = NULL;
    long status = 0;
    CURLcode code;

    if (failed)
        return -ENOMEM;
    curl_easy_reset(q->curl);
    q->words[0] = '\0';
    set_options(q, url, headers);
    code = curl_easy_perform(q->curl);
    curl_slist_free_all(headers);
    if (q->r < 0)
        return q->r;
    (void)curl_easy_getinfo(q->curl, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(q->curl, CURLINFO_REDIRECT_URL, &next);
    if (code != CURLE_OK)
        return curl_failed(q, url, code, q->err);
    if (status >= 300 && status < 400 && next)
        return str_set(ret_next, next) < 0 ? -ENOMEM : 1;
    if (status != 200 && status != 206)
        return status_failed(url, status, q->err);
    return q->begun ? 0 : begin(q); /* an empty one */
}

static int not_there(const char *url, const char *next, struct err *err)
{
    return err_set(err, EACCES, "redirect", "%.*s leads to %.*s, which the config doesn't name (\"hosts\" of the source)", shown(url), url,
                   shown(next), next);
}

int http_get(struct image_task *task, const struct http_get *get, struct err *err)
{
    auto_free char *url = strdup(get->url);
    struct request q = { .task = task, .get = get, .err = err };
    int r = url ? 1 : -ENOMEM;

    q.curl = curl_easy_init();
    if (!q.curl)
        r = -ENOMEM;
    for (unsigned i = 0; r == 1 && i <= REDIRECTS_MAX; i++) {
        auto_free char *next = NULL;

        r = perform(&q, url, &next);
        if (r != 1 || !next)
            break;
        if (!http_url_is_allowed(next, get->url, get->hosts)) {
            r = not_there(url, next, err);
            break;
        }
        free(url);
        url = steal_ptr(&next);
    }
    curl_easy_cleanup(q.curl);
    return r == 1 ? err_set(err, EAGAIN, "source", "%.*s: more than %d redirects", shown(get->url), get->url, (int)REDIRECTS_MAX) : r;
}

/* ---- small ones ---- */

struct text {
    FILE *f;
    size_t len, limit;
    const char *url;
};

static int add_text(void *arg, const void *data, size_t len, struct err *err)
{
    struct text *t = arg;

    if (t->len + len > t->limit)
        return err_set(err, EFBIG, "source", "%.*s: more than %zu bytes", shown(t->url), t->url, t->limit);
    t->len += len;
    return fwrite(data, 1, len, t->f) == len ? 0 : -ENOMEM;
}

int http_get_text(struct image_task *task, const char *url, char *const *hosts, size_t limit, char **ret_text, size_t *ret_len,
                  struct err *err)
{
    auto_free char *text = NULL;
    size_t len = 0;
    struct text t = { .f = open_memstream(&text, &len), .limit = limit, .url = url };
    struct http_get get = { .url = url, .hosts = hosts, .data = add_text, .arg = &t };
    int r;

    if (!t.f)
        return -ENOMEM;
    r = http_get(task, &get, err);
    if (fclose(t.f) != 0 && r >= 0)
        r = -ENOMEM;
    if (r < 0)
        return r;
    *ret_text = steal_ptr(&text);
    *ret_len = len;
    return 0;
}

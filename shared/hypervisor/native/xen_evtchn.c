/* SPDX-License-Identifier: MIT */
/* Event channels through libxenevtchn, and opening both libraries. */
#include "xen.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* struct xentoollog_logger (xentoollog.h), which is public. */
struct logger {
    void (*message)(struct logger *logger, int level, int error, const char *context,
                    const char *format, va_list arguments);
    void (*progress)(struct logger *logger, const char *context, const char *what, int percent,
                     unsigned long done, unsigned long total);
    void (*destroy)(struct logger *logger);
};

static void no_message(struct logger *logger, int level, int error, const char *context,
                       const char *format, va_list arguments)
{
    (void)logger, (void)level, (void)error, (void)context, (void)format, (void)arguments;
}

static void no_progress(struct logger *logger, const char *context, const char *what, int percent,
                        unsigned long done, unsigned long total)
{
    (void)logger, (void)context, (void)what, (void)percent, (void)done, (void)total;
}

static void no_destroy(struct logger *logger)
{
    (void)logger;
}

/*
 * Without a logger the libraries write each failure to stderr, and a guest can cause a failure
 * whenever it likes. Every call's errno is reported by us, where it is rate-limited.
 */
void *xen_silence(void)
{
    static struct logger silence = {no_message, no_progress, no_destroy};

    return &silence;
}

struct symbol {
    const char *name;
    void *call; /* where the pointer to the function goes */
};

static const char *load(const char *name, const struct symbol *symbols)
{
    static char missing[256];
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return dlerror();
    for (; symbols->name; symbols++) {
        void *found = dlsym(library, symbols->name);

        if (!found) {
            snprintf(missing, sizeof(missing), "%s: has no %s", name, symbols->name);
            dlclose(library);
            return missing;
        }
        *(void **)symbols->call = found;
    }
    return NULL; /* stays open as long as the process: its functions may be called any time */
}

const char *xen_evtchn_load(const char *name, struct xen_evtchn_calls *out)
{
    const struct symbol symbols[] = {
        {"xenevtchn_open", &out->open},
        {"xenevtchn_close", &out->close},
        {"xenevtchn_fd", &out->fd},
        {"xenevtchn_notify", &out->notify},
        {"xenevtchn_bind_unbound_port", &out->bind_unbound_port},
        {"xenevtchn_bind_interdomain", &out->bind_interdomain},
        {"xenevtchn_unbind", &out->unbind},
        {"xenevtchn_pending", &out->pending},
        {"xenevtchn_unmask", &out->unmask},
        {"xenevtchn_restrict", &out->restrict_domid},
        {NULL, NULL},
    };

    return load(name, symbols);
}

const char *xen_gnttab_load(const char *name, struct xen_gnttab_calls *out)
{
    const struct symbol symbols[] = {
        {"xengnttab_open", &out->open},
        {"xengnttab_close", &out->close},
        {"xengnttab_set_max_grants", &out->set_max_grants},
        {"xengnttab_map_domain_grant_refs", &out->map_domain_grant_refs},
        {"xengnttab_unmap", &out->unmap},
        {"xengnttab_grant_copy", &out->grant_copy},
        {NULL, NULL},
    };

    return load(name, symbols);
}

int xen_evtchn_open(const struct xen_evtchn_calls *calls, struct xen_evtchn **out)
{
    struct xen_evtchn *evtchn = malloc(sizeof(*evtchn));

    if (!evtchn)
        return -ENOMEM;
    evtchn->calls = *calls;
    errno = EIO;
    evtchn->handle = calls->open(xen_silence(), 0);
    if (!evtchn->handle) {
        int error = errno;

        free(evtchn);
        return -error;
    }
    *out = evtchn;
    return 0;
}

void xen_evtchn_close(struct xen_evtchn *evtchn)
{
    evtchn->calls.close(evtchn->handle); /* the kernel closes its ports */
    free(evtchn);
}

/* The libraries' -1 with errno, as -errno. */
static int result_of(int result)
{
    return result < 0 ? -errno : result;
}

int xen_evtchn_fd(struct xen_evtchn *evtchn)
{
    return evtchn->calls.fd(evtchn->handle);
}

int xen_evtchn_alloc_unbound(struct xen_evtchn *evtchn, uint16_t domid)
{
    return result_of(evtchn->calls.bind_unbound_port(evtchn->handle, domid));
}

int xen_evtchn_bind_interdomain(struct xen_evtchn *evtchn, uint16_t domid, uint32_t remote_port)
{
    return result_of(evtchn->calls.bind_interdomain(evtchn->handle, domid, remote_port));
}

int xen_evtchn_unbind(struct xen_evtchn *evtchn, uint32_t port)
{
    return result_of(evtchn->calls.unbind(evtchn->handle, port));
}

int xen_evtchn_notify(struct xen_evtchn *evtchn, uint32_t port)
{
    return result_of(evtchn->calls.notify(evtchn->handle, port));
}

int xen_evtchn_pending(struct xen_evtchn *evtchn)
{
    struct pollfd look = {.fd = evtchn->calls.fd(evtchn->handle), .events = POLLIN};
    int ready;

    /* xenevtchn_pending waits for an event, even on a descriptor that is set not to (xenevtchn.h) */
    do
        ready = poll(&look, 1, 0);
    while (ready < 0 && errno == EINTR);
    if (ready < 0)
        return -errno;
    if (ready == 0)
        return -EAGAIN;
    if (!(look.revents & POLLIN))
        return -EIO; /* more events than the kernel's buffer holds (EFBIG in read) */
    return result_of(evtchn->calls.pending(evtchn->handle));
}

int xen_evtchn_unmask(struct xen_evtchn *evtchn, uint32_t port)
{
    return result_of(evtchn->calls.unmask(evtchn->handle, port));
}

int xen_evtchn_restrict(struct xen_evtchn *evtchn, uint16_t domid)
{
    return result_of(evtchn->calls.restrict_domid(evtchn->handle, domid));
}

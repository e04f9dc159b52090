/* SPDX-License-Identifier: MIT */
/*
 * libxenevtchn and libxengnttab without Xen, for tests: both in one shared library. What the test
 * wants to happen it writes into `fake`; what was called it reads there.
 *
 * Pages are of one array, `guest`; the reference of a page is its number.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 16
#define PAGE 4096

struct logger {
    void (*message)(struct logger *, int, int, const char *, const char *, void *);
};

struct fake {
    int open_error; /* errno of opening a device; 0: it opens */
    int call_error; /* errno of event-channel calls */
    int map_error;  /* errno of every map */
    int copy_error; /* errno of a whole copy call */
    int bad_ref;    /* this one is not granted; -1: all are */
    int readonly_ref;
    int domain; /* the one living domain */
    int opened, closed, mapped, copies, maps, events;
    uint32_t notified, unmasked, unbound, restricted, max_grants;
};

struct fake fake;
static uint8_t guest[PAGES][PAGE];

void fake_reset(void)
{
    memset(&fake, 0, sizeof(fake));
    memset(guest, 0, sizeof(guest));
    fake.bad_ref = fake.readonly_ref = -1;
    fake.domain = 3;
}

uint8_t *fake_page(int number)
{
    return guest[number];
}

static int failing(int error)
{
    errno = error;
    return error ? -1 : 0;
}

static void *open_device(struct logger *logger, unsigned int flags)
{
    int *event;

    if (failing(fake.open_error) || flags)
        return NULL;
    logger->message(logger, 0, 0, "", "", NULL);
    event = malloc(sizeof(*event));
    *event = eventfd(0, EFD_SEMAPHORE);
    fake.opened++;
    return event;
}

static int close_device(int *event)
{
    fake.closed++;
    close(*event);
    free(event);
    return 0;
}

void *xenevtchn_open(struct logger *logger, unsigned int flags)
{
    return open_device(logger, flags);
}

int xenevtchn_close(int *event)
{
    return close_device(event);
}

int xenevtchn_fd(int *event)
{
    return *event;
}

int xenevtchn_notify(int *event, uint32_t port)
{
    uint64_t one = 1;

    fake.notified = port;
    if (failing(fake.call_error))
        return -1;
    return write(*event, &one, sizeof(one)) == sizeof(one) ? 0 : -1;
}

int xenevtchn_bind_unbound_port(int *event, uint32_t domid)
{
    (void)event, (void)domid;
    return failing(fake.call_error) ? -1 : 11;
}

int xenevtchn_bind_interdomain(int *event, uint32_t domid, uint32_t port)
{
    (void)event;
    if (domid != (uint32_t)fake.domain)
        return failing(ESRCH);
    return failing(fake.call_error) ? -1 : (int)port + 100;
}

int xenevtchn_unbind(int *event, uint32_t port)
{
    (void)event;
    fake.unbound = port;
    return failing(fake.call_error);
}

/* Waits, as the real one. */
int xenevtchn_pending(int *event)
{
    uint64_t one;

    if (failing(fake.call_error) || read(*event, &one, sizeof(one)) < 0)
        return -1;
    fake.events++;
    return (int)fake.notified;
}

int xenevtchn_unmask(int *event, uint32_t port)
{
    (void)event;
    fake.unmasked = port;
    return failing(fake.call_error);
}

int xenevtchn_restrict(int *event, uint16_t domid)
{
    (void)event;
    fake.restricted = domid;
    return failing(fake.call_error);
}

void *xengnttab_open(struct logger *logger, unsigned int flags)
{
    return open_device(logger, flags);
}

int xengnttab_close(int *event)
{
    return close_device(event);
}

int xengnttab_set_max_grants(int *event, uint32_t count)
{
    (void)event;
    fake.max_grants = count;
    return failing(fake.call_error);
}

void *xengnttab_map_domain_grant_refs(int *event, uint32_t count, uint32_t domid, uint32_t *refs,
                                      int protection)
{
    uint8_t *area;
    uint32_t i;

    (void)event;
    fake.maps++;
    if (failing(fake.map_error))
        return NULL;
    for (i = 0; i < count; i++) {
        int read_only = refs[i] == (uint32_t)fake.readonly_ref && (protection & PROT_WRITE);

        if (domid != (uint32_t)fake.domain || refs[i] == (uint32_t)fake.bad_ref ||
            refs[i] >= PAGES || read_only) {
            errno = EINVAL;
            return NULL;
        }
    }
    area = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                -1, 0);
    for (i = 0; i < count; i++)
        memcpy(area + (size_t)i * PAGE, guest[refs[i]], PAGE);
    mprotect(area, (size_t)count * PAGE, protection);
    fake.mapped += (int)count;
    return area;
}

int xengnttab_unmap(int *event, void *address, uint32_t count)
{
    (void)event;
    fake.mapped -= (int)count;
    return munmap(address, (size_t)count * PAGE);
}

struct foreign {
    uint32_t ref;
    uint16_t offset, domid;
};

struct segment {
    union {
        void *virt;
        struct foreign foreign;
    } source, dest;
    uint16_t len, flags;
    int16_t status;
};

int xengnttab_grant_copy(int *event, uint32_t count, struct segment *segments)
{
    (void)event;
    fake.copies++;
    if (failing(fake.copy_error))
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        struct segment *at = &segments[i];
        int to_guest = at->flags == 2; /* GNTCOPY_dest_gref */
        const struct foreign *page = to_guest ? &at->dest.foreign : &at->source.foreign;

        if (page->offset + at->len > PAGE)
            return failing(EINVAL);
        if (page->domid != fake.domain)
            at->status = -2;
        else if (page->ref >= PAGES || page->ref == (uint32_t)fake.bad_ref)
            at->status = -3;
        else if (to_guest && page->ref == (uint32_t)fake.readonly_ref)
            at->status = -8;
        else if (to_guest)
            memcpy(guest[page->ref] + page->offset, at->source.virt, at->len);
        else
            memcpy(at->dest.virt, guest[page->ref] + page->offset, at->len);
        if (page->domid == fake.domain && at->status == -1)
            at->status = 0;
    }
    return 0;
}

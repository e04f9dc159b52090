/* SPDX-License-Identifier: MIT */
/*
 * What Python sees of the blkif backend. cffi reads this file too: plain declarations only
 * (shared/native/declarations.py).
 *
 * Life of a device: blk_open, then any number of times blk_attach, blk_run as often as needed and
 * blk_detach, then blk_close. One thread calls all of it. A guest is trusted with nothing except
 * its own data.
 */
#ifndef XENBACKD_BLK_API_H
#define XENBACKD_BLK_API_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "shared/native/hv_ops.h"

struct plane_crash; /* worker/plane/crash.h */

/* enum plane_reason (worker/plane/loop.h). */
enum blk_reason {
    BLK_WAKE = 0,    /* a descriptor of the caller's is readable, or a signal came */
    BLK_TIMEOUT = 1, /* the time is over */
    BLK_FAULT = 2,   /* the ring cannot be served any more: see blk_status */
};

/* enum plane_fault, and one of our own. */
enum blk_fault {
    BLK_FAULT_NONE = 0,
    BLK_FAULT_OVERFLOW = 1, /* guest: more requests claimed than the ring has slots */
    BLK_FAULT_EVENTS = 2,   /* host: the event-channel handle broke */
    BLK_FAULT_RESPONSES = 3, /* guest: rsp_prod in the ring is not what was published there */
};

enum blk_engine {
    BLK_ENGINE_AUTO = 0, /* what cannot block inline, the rest in I/O threads */
    BLK_ENGINE_SYNC = 1, /* everything inline */
};

/*
 * What a disk can do. read and write return a count or -errno; flush and discard 0 or -errno.
 * With nowait set, a call that would block gives -EAGAIN, or -EOPNOTSUPP where that cannot be
 * told. Called from I/O threads too, several at a time.
 */
struct blk_disk {
    void *context;
    ptrdiff_t (*read)(void *context, const struct iovec *vector, int count, uint64_t offset,
                      int nowait);
    ptrdiff_t (*write)(void *context, const struct iovec *vector, int count, uint64_t offset,
                       int nowait);
    int (*flush)(void *context);
    int (*discard)(void *context, uint64_t offset, uint64_t length);
};

struct blk_config {
    const struct hv_ops *hv;
    struct plane_crash *crash; /* where a crash of this process looks for its word; may be NULL */
    const struct blk_disk *disk; /* NULL: the file or block device `fd` */
    int fd;
    uint16_t domid;
    uint64_t sectors;     /* of 512 bytes */
    uint32_t sector_size; /* bytes; requests must be aligned to it */
    uint32_t read_only;
    uint32_t flush;
    uint32_t discard;
    uint32_t engine;    /* enum blk_engine */
    uint32_t direct_io; /* the disk bypasses the page cache: nothing inline unless engine sync */
    uint32_t io_threads;
    uint32_t poll_us;
    uint32_t max_persistent;
};

/* What tells one connection of a frontend from another. */
struct blk_connection {
    uint32_t order;
    uint32_t layout32; /* x86_32 request layout */
    uint32_t remote_port;
    uint32_t refs[16]; /* of the ring's pages, the rest 0 */
};

struct blk_ring_config {
    void *ring; /* 2^order pages, mapped by the caller, who unmaps them after blk_detach */
    struct blk_connection connection;
    uint32_t port;
    uint32_t persistent; /* both ends offer feature-persistent */
    uint32_t resume;     /* the ring is live: recover from the journal, notify once */
    int journal_fd;      /* file of the journal, locked by the caller, who closes it; or -1 */
    uint32_t journal;    /* a new connection gets a journal; without, answers go in ring order */
};

/* Since blk_open. Requests count when their response is published. */
struct blk_counters {
    uint64_t rd_req, wr_req, f_req, ds_req;
    uint64_t rd_sect, wr_sect, ds_sect;
    uint64_t bad_operation, bad_segments, bad_range, bad_alignment, bad_discard, read_only;
    uint64_t grant_errors, io_errors, short_io;
    uint64_t last_errno;
    uint64_t notifies, notify_errors, wakeups, stray_events, batches, pooled, merged;
    uint64_t poll_hits, poll_misses;
    uint64_t grant_maps, grant_copies;
    uint64_t in_flight, persistent_grants, io_threads;
    uint64_t reissued, reanswered, poisoned; /* of a dead predecessor's requests */
};

struct blk_status {
    int fault; /* enum blk_fault */
    int error; /* errno of a fault of the host's, otherwise 0 */
    uint32_t untrusted_req_prod;
    uint32_t rsp_prod;
    uint32_t req_cons;
    uint32_t slots;
    uint32_t stray_port; /* the last one */
    uint32_t stray_events;
    uint32_t poll_us; /* present budget */
    const char *journal_broken; /* with -EBADMSG of blk_attach: what is wrong in the journal */
    uint32_t poisoned; /* requests given up as poison; the last one: */
    uint8_t poison_operation;
    uint64_t poison_offset, poison_length; /* bytes */
    uint32_t sealable; /* as many pages are known as the ring can use at once, none by copy now */
};

struct blk_dev;

/* NULL with errno set on failure. The file descriptor stays the caller's. */
struct blk_dev *blk_open(const struct blk_config *config);
/*
 * 0, or -errno. -EPROTO: the indices in the ring make no sense (see blk_status); -EBADMSG: the
 * journal is damaged; -ENODATA: it is gone, and the live ring has requests without an answer.
 */
int blk_attach(struct blk_dev *dev, const struct blk_ring_config *config);
/* Serve until something of enum blk_reason. wake_fds: at most PLANE_WAKE_MAX (8). */
int blk_run(struct blk_dev *dev, const int *wake_fds, uint32_t count, int timeout_ms);
/*
 * Finish and answer what was taken, give all grants back. -ETIMEDOUT when the disk does not
 * answer: then nothing was given back, for it may still write there.
 */
int blk_detach(struct blk_dev *dev, int timeout_ms);
/*
 * From now on no grant is mapped or copied any more until the detach: requests with references that
 * are not mapped get an error.
 */
void blk_seal(struct blk_dev *dev);
/* Ends the threads and frees everything; the ring must be detached. */
void blk_close(struct blk_dev *dev);

void blk_counters(const struct blk_dev *dev, struct blk_counters *out);
void blk_status(const struct blk_dev *dev, struct blk_status *out);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * What the embedded hypervisor and its clients agree on: the messages on a handle's SEQPACKET
 * socket and the layout of a domain's memory. Everything is in the byte order of the machine,
 * since both ends are processes of it. Mirrored by embedded/protocol.py; a test compares.
 *
 * One request, one reply, never two under way on a connection. Descriptors travel beside the
 * reply (SCM_RIGHTS) in the order given at each operation.
 */
#ifndef XENBACKD_EMBEDDED_PROTOCOL_H
#define XENBACKD_EMBEDDED_PROTOCOL_H

#include <stdint.h>

enum embedded_op {
    EMBEDDED_ALLOC_UNBOUND = 1,  /* domid: who may bind -> value: port; own bell, peer bell */
    EMBEDDED_BIND_INTERDOMAIN,   /* domid, argument: its port -> value: port; own, peer bell */
    EMBEDDED_CLOSE_PORT,         /* argument: port */
    EMBEDDED_RESTRICT,           /* domid: the only one to bind to from now on */
    EMBEDDED_ATTACH,             /* domid -> value: pages, count: grant entries; memory */
    EMBEDDED_MAP,                /* domid, argument: writable, payload: references
                                    -> value: id, payload: struct embedded_map_result each */
    EMBEDDED_UNMAP,              /* argument: id */
    EMBEDDED_SET_MAX_GRANTS,     /* argument: pages */
    EMBEDDED_CREATE_DOMAIN,      /* domid: wanted or EMBEDDED_ANY_DOMID, argument: pages, payload:
                                    name -> value: domid; memory, lifeline */
    EMBEDDED_DESTROY_DOMAIN,     /* domid */
    EMBEDDED_LIST_DOMAINS,       /* -> payload: JSON */
    EMBEDDED_STATS,              /* -> payload: JSON */
    EMBEDDED_RELEASE,            /* close all ports and unmap all: the handle is about to close */
};

struct embedded_request {
    uint16_t op;
    uint16_t domid;
    uint32_t argument;
    uint32_t count; /* references, or bytes of a name, that follow */
};

struct embedded_reply {
    int32_t error; /* 0 or -errno */
    uint32_t value;
    uint32_t count;
    uint32_t reserved;
    uint64_t serial; /* of the domain concerned: no two domains ever have the same */
};

struct embedded_map_result {
    uint32_t frame;
    int32_t status; /* HV_GNT_* */
};

#define EMBEDDED_ANY_DOMID 0x7FF4u        /* DOMID_INVALID of xen/include/public/xen.h */
#define EMBEDDED_MAP_MAX 4096u            /* references of one map request */
#define EMBEDDED_TEXT_MAX 131072u         /* bytes of a JSON reply */
#define EMBEDDED_PORTS_MAX 131072u        /* ports of dom0, as with FIFO event channels */

/*
 * A domain's memory: page 0 holds the header, the pages after it the grant table. The domain can
 * write all of it, so nobody else takes sizes from the header; `alive` can only make other
 * processes' calls on this very domain fail.
 */
#define EMBEDDED_MAGIC 0x6d656d64626e6578ull

struct embedded_header {
    uint64_t magic;
    uint32_t alive;
    uint32_t pages;
    uint32_t grant_entries;
    uint32_t domid;
};

#define EMBEDDED_GRANT_FRAME 1u
#define EMBEDDED_GRANT_ENTRIES 16384u
/* First frame behind the grant table: frames below it cannot be granted. */
#define EMBEDDED_FIRST_FRAME 33u
/* References 0..7 are reserved (xen/include/public/grant_table.h). */
#define EMBEDDED_FIRST_REF 8u

/* struct grant_entry_v1 of xen/include/public/grant_table.h. */
struct grant_entry_v1 {
    uint16_t flags;
    uint16_t domid;
    uint32_t frame;
};

#define GTF_TYPE_MASK 3u
#define GTF_PERMIT_ACCESS 1u
#define GTF_READONLY 4u
#define GTF_READING 8u
#define GTF_WRITING 16u

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The head of a shared ring of fixed slots (xen/include/public/io/ring.h): offsets of its four
 * indices in bytes. The slots follow the header.
 */
#ifndef XENBACKD_RING_PAGE_H
#define XENBACKD_RING_PAGE_H

#define RING_HEADER 64u
#define RING_REQ_PROD 0u
#define RING_REQ_EVENT 4u
#define RING_RSP_PROD 8u
#define RING_RSP_EVENT 12u

#endif

/* SPDX-License-Identifier: MIT */
/* What a test sees of a block backend that can be stopped anywhere. cffi reads this file too. */

#define BLK_KILLED -1000

/* Let `points` points pass and stop at the next; 0: never. */
void blk_inject_arm(uint64_t points);
/* Points passed since. */
uint64_t blk_inject_passed(void);

/* As blk_attach and blk_run, or BLK_KILLED: then only blk_inject_abandon may follow. */
int blk_inject_attach(struct blk_dev *dev, const struct blk_ring_config *config);
int blk_inject_run(struct blk_dev *dev, int timeout_ms);

/* Requests that threads would have in their hands. */
uint32_t blk_inject_queued(const struct blk_dev *dev);
/* Run one of them to its end; the oldest is 0. */
void blk_inject_finish(struct blk_dev *dev, uint32_t number);

/* What the kernel does for a dead process: its memory and mappings go, nothing is written. */
void blk_inject_abandon(struct blk_dev *dev);

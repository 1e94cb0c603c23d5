// Phases that sum up the differences of DC. Here each thread has as many MCUs as the others.

#define BATCH 8 // blocks that are asked for together, as memory is far

// Sum up the differences in a thread's blocks after `sums`, and with `store` put the sums so far in
// their places.
DEVICE Totals sum_blocks(const Block* block, const Work* work, int thread, Totals sums, int store) {
    int parts = block->parts, luma = block->across * block->down, part = 0;
    int each = (block->mcus + THREADS - 1) / THREADS;
    int from = least(thread * each, block->mcus), left = least(each, block->mcus - from) * parts;
    // Blocks until the next interval begins. Where none does, sums begin with zero all the same.
    int interval = block->interval ? block->interval : block->mcus;
    int until = (interval - from % interval) % interval * parts;
    int sum0 = sums.sums[0], sum1 = sums.sums[1], sum2 = sums.sums[2];
    Record* records = work->records + from * parts;
    for (; left > 0; left -= BATCH, records += BATCH) {
        int values[BATCH];
        UNROLLED for (int i = 0; i < BATCH; i++) values[i] = i < left ? records[i].dc : 0;
        UNROLLED for (int i = 0; i < BATCH; i++) {
            if (i < left && !until--) {
                sum0 = sum1 = sum2 = 0;
                sums.restarts = 1;
                until = interval * parts - 1;
            }
            int component = part < luma ? 0 : part - luma + 1;
            sum0 += component == 0 ? values[i] : 0;
            sum1 += component == 1 ? values[i] : 0;
            sum2 += component == 2 ? values[i] : 0;
            int sum = component == 0 ? sum0 : component == 1 ? sum1 : sum2;
            if (store && i < left) records[i].dc = (i16)sum;
            part = part + 1 == parts ? 0 : part + 1;
        }
    }
    sums.sums[0] = (u16)sum0;
    sums.sums[1] = (u16)sum1;
    sums.sums[2] = (u16)sum2;
    return sums;
}

DEVICE void sum_differences(Block* block, const Work* work, int thread) {
    Totals none = {0, {0, 0, 0}, 0};
    block->totals[thread] = sum_blocks(block, work, thread, none, 0);
}

// The sums of two parts one after the other.
DEVICE Totals both(Totals first, Totals second) {
    for (int i = 0; i < 3; i++)
        second.sums[i] = (u16)(second.sums[i] + (second.restarts ? 0 : first.sums[i]));
    second.restarts |= first.restarts;
    return second;
}

// Turn sums into those before each part, in two levels as with blocks.
DEVICE void sum_groups(Block* block, int thread) {
    if (thread >= GROUPS) return;
    Totals before = {0, {0, 0, 0}, 0};
    for (int i = thread * THREADS / GROUPS; i < (thread + 1) * THREADS / GROUPS; i++) {
        Totals here = block->totals[i];
        block->totals[i] = before;
        before = both(before, here);
    }
    block->groups[thread] = before;
}

DEVICE void sum_up(Block* block) {
    Totals before = {0, {0, 0, 0}, 0};
    for (int i = 0; i < GROUPS; i++) {
        Totals here = block->groups[i];
        block->groups[i] = before;
        before = both(before, here);
    }
}

DEVICE void store_sums(Block* block, const Work* work, int thread) {
    Totals before = both(block->groups[thread / (THREADS / GROUPS)], block->totals[thread]);
    sum_blocks(block, work, thread, before, 1);
}

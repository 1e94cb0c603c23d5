// The kernels of brimful/vision/cuda/jpeg thread after thread: its files come before this one.

#include <stdlib.h>

// All phases before the first reading. Returns the status.
static int prepare(Block* block, const i64* image, const Work* work) {
    int t;
    read_segments(block, image, work);
    if (block->status == GOOD) {
        for (t = 0; t < THREADS; t++) measure_codes(block, work, t);
        for (t = 0; t < THREADS; t++) note_steps(block, work, t);
        for (t = 0; t < THREADS; t++) {
            int stops = count_data(block, work, t);
            block->stop = least(block->stop, stops);
        }
    }
    if (block->status == GOOD) {
        for (t = 0; t < THREADS; t++) fill_tables(block, work, t);
        for (t = 0; t < THREADS; t++) sum_chunks(block, work, t);
        for (t = 0; t < THREADS; t++) join_symbols(block, t);
        lay_out(block, work);
    }
    if (block->status == GOOD) {
        for (t = 0; t < THREADS; t++) gather(block, work, t);
        return GOOD;
    }
    return block->status;
}

// Where the readers of an image end that begin at their shares, with one symbol a look or all.
void brimful_first_ends(const i64* image, u16* ends, int single) {
    Block* block = (Block*)malloc(sizeof(Block));
    const Work work = work_of(image);
    if (prepare(block, image, &work) == GOOD) {
        const int looks = sizeof(block->looks) / sizeof(u32);
        for (int i = 0; single && i < looks; i++)
            if (block->looks[i] != LONG_CODE)
                block->looks[i] = (block->looks[i] & 0x7ff) << STEP_BITS |
                                  (block->looks[i] & STEP_MASK);
        for (int t = 0; t < THREADS; t++) begin(block, t);
        for (int t = 0; t < THREADS; t++) read_listed(block, &work, t, 0);
        for (int t = 0; t < block->readers; t++) ends[t] = block->ends[t];
    }
    free(block);
}

// The scan without stuffing and markers, and where its intervals begin. Returns the bytes, or less
// than 0 for a file that is refused before it is read.
int brimful_bits(const i64* image, u8* bits, u32* starts, int* segments) {
    Block* block = (Block*)malloc(sizeof(Block));
    const Work work = work_of(image);
    int count = prepare(block, image, &work) == GOOD ? block->bytes : -1;
    *segments = count < 0 ? 0 : block->segments;
    for (int i = 0; i < count; i++) bits[i] = work.bits[i];
    for (int i = 0; i < *segments; i++) starts[i] = starts_of(block, &work)[i];
    free(block);
    return count;
}

// What the kernel of this name does with eight threads that tell each other their sums.
static void collect(const Work* work, int scanned, i16* coefficients) {
    const Record record = work->records[scanned];
    Way way = {record.pairs, 1};
    coefficients[0] = (i16)record.dc;
    u8 places[64];
    for (int i = 0; i < 64; i++) places[i] = 2 * NATURAL[i];
    while (way.filled < 64) {
        int filled = way.filled;
        u32 part = 0;
        for (int lane = 0; lane < 8; lane++) {
            u32 pairs[TAKEN];
            for (int i = 0; i < TAKEN; i++) pairs[i] = work->pairs[way.at + (u32)(TAKEN * lane + i)];
            put_pairs(pairs, filled, places, coefficients);
            if (may_go_on(pairs)) part |= next_part(pairs, filled);
            for (int i = 0; i < TAKEN; i++) filled += length_of(pairs[i]);
        }
        way.filled = filled;
        way.at += 8 * TAKEN;
        if (part) way = way_on(part, scanned);
    }
}

// Decode images to planes. `rounds` gets how often shares were read.
void brimful_decode(const i64* images, int* statuses, int count, int* rounds) {
    Block* block = (Block*)malloc(sizeof(Block));
    for (int i = 0; i < count; i++) {
        const i64* image = images + (i64)i * COLUMNS;
        const Work work = work_of(image);
        int t;
        rounds[i] = 0;
        if (prepare(block, image, &work) == GOOD) {
            for (t = 0; t < THREADS; t++) begin(block, t);
            for (; block->listed_count[rounds[i] & 1]; rounds[i]++) {
                for (t = 0; t < THREADS; t++) read_listed(block, &work, t, rounds[i]);
                for (t = THREADS; t--;) list_moved(block, t, rounds[i]); // whatever order
            }
            for (t = 0; t < THREADS; t++) count_groups(block, t);
            count_up(block);
            if (block->status == GOOD) {
                for (t = 0; t < THREADS; t++) store(block, &work, t);
                for (t = 0; t < THREADS; t++) sum_differences(block, &work, t);
                for (t = 0; t < THREADS; t++) sum_groups(block, t);
                sum_up(block);
                for (t = 0; t < THREADS; t++) store_sums(block, &work, t);
            }
        }
        statuses[i] = block->status;
        if (block->status != GOOD) continue;
        const Blocks blocks = blocks_of(image);
        for (int index = 0; index < blocks.count; index++) {
            int between[72], factors[8];
            i16 coefficients[64] __attribute__((aligned(16))) = {0};
            const Target target = target_of(image, &blocks, index);
            collect(&work, target.scanned, coefficients);
            for (t = 0; t < 8; t++) {
                quantisers_of(work.quantisers, target.component, t, factors);
                if (columns_of(coefficients, factors, t, between)) statuses[i] = DAMAGED;
            }
            for (t = 0; t < 8; t++)
                rows_of(between + 9 * t, target.samples + (i64)t * target.pitch);
        }
    }
    free(block);
}

// What Python says as well.
void brimful_constants(int* out) {
    const int constants[] = {COLUMNS, LUMA, WORK, FILE_AT, FILE_BYTES, CANVAS,
                             THREADS, MOST_THREADS, 8 * TRANSFORMS, GROUP, LINES,
                             GOOD, UNSUPPORTED, DAMAGED};
    for (int i = 0; i < 14; i++) out[i] = constants[i];
}

// Place one image on its canvas.
void brimful_place(const i64* image, void* out, int height, int width, int type) {
    static Joint joint;
    static Strip strips[LANES];
    static Share shares[LANES];
    const Canvases canvases = canvases_of(out, height, width, type);
    int threads = (width + GROUP - 1) / GROUP * ((height + LINES - 1) / LINES);
    for (int first = 0; first < threads; first += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            strips[lane] = strip_of(image, &canvases, first + lane, way_of(image));
            announce(&joint, &strips[lane], image, &canvases, lane);
        }
        for (int lane = 0; lane < LANES; lane++)
            shares[lane] = share_of(&joint, image, &canvases, lane);
        for (int line = 0; line < LINES; line++) {
            for (int lane = 0; lane < LANES; lane++)
                make_row(&strips[lane], image, &canvases, line, joint.parts + lane * GROUP_PARTS,
                         way_of(image));
            for (int lane = 0; lane < LANES && canvases.joint; lane++)
                write_joint(&joint, &shares[lane], &canvases, line, lane);
        }
    }
}

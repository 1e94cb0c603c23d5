// The kernels.

// Pairs and records out of files. statuses and told: what became of each image, on the device
// and on the host.
extern "C" __global__ void __launch_bounds__(THREADS)
read_scans(const i64* images, int* statuses, int* told) {
    __shared__ __align__(32) Block block;
    const i64* image = images + (i64)blockIdx.x * COLUMNS;
    int thread = (int)threadIdx.x;
    const Work work = work_of(image);
    if (thread == 0) read_segments(&block, image, &work);
    __syncthreads();
    if (block.status == GOOD) {
        measure_codes(&block, &work, thread);
        note_steps(&block, &work, thread);
        int stops = count_data(&block, &work, thread);
        if (stops < work.length) atomicMin(&block.stop, stops);
    }
    __syncthreads();
    if (block.status == GOOD) {
        fill_tables(&block, &work, thread);
        sum_chunks(&block, &work, thread);
        __syncthreads();
        join_symbols(&block, thread);
        if (thread == 0) lay_out(&block, &work);
    }
    __syncthreads();
    int good = block.status == GOOD;
    __syncthreads(); // everybody has seen it before it changes: what follows must be all or none
    if (good) gather(&block, &work, thread);
    __syncthreads();
    if (good) {
        begin(&block, thread);
        __syncthreads();
        for (int round = 0; block.listed_count[round & 1]; round++) {
            read_listed(&block, &work, thread, round);
            __syncthreads();
            list_moved(&block, thread, round);
            __syncthreads();
        }
        count_groups(&block, thread);
        __syncthreads();
        if (thread == 0) count_up(&block);
        __syncthreads();
        good = block.status == GOOD;
        __syncthreads();
        if (good) {
            store(&block, &work, thread);
            __syncthreads();
            sum_differences(&block, &work, thread);
            __syncthreads();
            sum_groups(&block, thread);
            __syncthreads();
            if (thread == 0) sum_up(&block);
            __syncthreads();
            store_sums(&block, &work, thread);
        }
    }
    __syncthreads();
    if (thread == 0) statuses[blockIdx.x] = told[blockIdx.x] = block.status;
}

// A block's coefficients out of its pairs, by eight threads of a warp. All of a warp come here.
DEVICE void collect(
    const Work* work, int scanned, int is, int lane, const u8* places, i16* coefficients
) {
    const uint4 none = {0, 0, 0, 0};
    ((uint4*)coefficients)[lane] = none;
    Record record = {0, 0};
    if (is) record = work->records[scanned];
    Way way = {record.pairs, is ? 1 : 64};
    __syncwarp();
    if (lane == 0) coefficients[0] = (i16)record.dc;
    do {
        u32 pairs[TAKEN];
        UNROLLED for (int i = 0; i < TAKEN; i++)
            pairs[i] = way.filled < 64 ? work->pairs[way.at + (u32)(TAKEN * lane + i)] : ENDS;
        int length = 0;
        UNROLLED for (int i = 0; i < TAKEN; i++) length += length_of(pairs[i]);
        int sum = length;
        UNROLLED for (int i = 1; i < 8; i *= 2) {
            int others = __shfl_up_sync(~0u, sum, i, 8);
            if (lane >= i) sum += others;
        }
        int before = way.filled + sum - length;
        put_pairs(pairs, before, places, coefficients);
        way.filled += __shfl_sync(~0u, sum, 7, 8);
        way.at += 8 * TAKEN;
        if (__any_sync(~0u, may_go_on(pairs))) { // one thread of the eight knows where
            u32 part = next_part(pairs, before);
            UNROLLED for (int i = 1; i < 8; i *= 2) part |= __shfl_xor_sync(~0u, part, i, 8);
            if (part) way = way_on(part, scanned);
        }
    } while (__any_sync(~0u, way.filled < 64));
    __syncwarp();
}

// Planes out of coefficients, eight threads a block of samples. Those of an image that is not GOOD
// stay as they are.
extern "C" __global__ void __launch_bounds__(256)
transform_blocks(const i64* images, int* statuses, int* told) {
    __shared__ int between[32][72];
    __shared__ __align__(16) i16 blocks_of_coefficients[32][72];
    __shared__ u8 places[64];
    if (threadIdx.x < 64) places[threadIdx.x] = sizeof(i16) * NATURAL[threadIdx.x];
    // Another block may find the image damaged just now: all of this one go on, or none.
    if (!__syncthreads_and(statuses[blockIdx.y] == GOOD)) return;
    const i64* image = images + (i64)blockIdx.y * COLUMNS;
    const Work work = work_of(image);
    const Blocks blocks = blocks_of(image);
    int block = (int)threadIdx.x / 8, lane = (int)threadIdx.x % 8;
    i16* coefficients = blocks_of_coefficients[block];
    int factors[8], factors_of = -1, wild = 0;
    ROLLED
    for (int i = 0; i < TRANSFORMS; i++) {
        int index = ((int)blockIdx.x * TRANSFORMS + i) * 32 + block;
        const Target target = target_of(image, &blocks, index);
        collect(&work, target.scanned, index < blocks.count, lane, places, coefficients);
        if (index < blocks.count) {
            if (target.component != factors_of)
                quantisers_of(work.quantisers, target.component, lane, factors);
            factors_of = target.component;
            wild |= columns_of(coefficients, factors, lane, between[block]);
        }
        __syncwarp();
        if (index < blocks.count)
            rows_of(between[block] + 9 * lane, target.samples + (i64)lane * target.pitch);
        __syncwarp(); // it has been read before the next one is written
    }
    if (wild) statuses[blockIdx.y] = told[blockIdx.y] = DAMAGED;
}

// The rows of a block's groups.
DEVICE void place_rows(const i64* image, const Canvases* canvases, Joint* joint, int way) {
    int thread = (int)threadIdx.x, lane = thread % LANES;
    Strip strip = strip_of(image, canvases, (int)(blockIdx.x * blockDim.x) + thread, way);
    announce(joint, &strip, image, canvases, lane);
    __syncwarp();
    const Share share = share_of(joint, image, canvases, lane);
    ROLLED
    for (int line = 0; line < LINES; line++) {
        uint4* parts = joint->parts + lane * GROUP_PARTS;
        make_row(&strip, image, canvases, line, parts, way);
        __syncwarp();
        if (canvases->joint) write_joint(joint, &share, canvases, line, lane);
        __syncwarp(); // it has been read before the next row is made
    }
}

// Canvases out of planes. Those of an image that is not GOOD stay as they are.
extern "C" __global__ void __launch_bounds__(256, RESIDENT)
place_images(const i64* images, const int* statuses, void* out, i64 height, i64 width, i64 type) {
    __shared__ Joint joints[256 / LANES];
    if (statuses[blockIdx.y] != GOOD) return;
    const i64* image = images + (i64)blockIdx.y * COLUMNS;
    const Canvases canvases = canvases_of(out, height, width, type);
    Joint* joint = &joints[threadIdx.x / LANES];
    // Thrice, for the compiler: what only one of them needs takes no registers from the others.
    int way = way_of(image);
    if (way == GROUPED) place_rows(image, &canvases, joint, GROUPED);
    else if (way == RESIZED) place_rows(image, &canvases, joint, RESIZED);
    else place_rows(image, &canvases, joint, TURNED);
}

// The kernels.

// Planes' coefficients out of files. statuses and told: what became of each image, on the device
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
        clear(&work, thread);
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

// Planes out of coefficients, eight threads a block of samples. Those of an image that is not GOOD
// stay as they are.
extern "C" __global__ void __launch_bounds__(256)
transform_blocks(const i64* images, int* statuses, int* told) {
    __shared__ int between[32][72];
    const i64* image = images + (i64)blockIdx.y * COLUMNS;
    int block = (int)threadIdx.x / 8, lane = (int)threadIdx.x % 8, component = 0, pitch = 0, at = 0;
    int index = (int)blockIdx.x * 32 + block;
    if (statuses[blockIdx.y] != GOOD) return;
    const Work work = work_of(image);
    u8* samples = samples_of(image, index, &component, &pitch, &at);
    if (samples) {
        const i16* coefficients = work.coefficients + (i64)at * 64;
        if (columns_of(coefficients, work.quantisers + 64 * component, lane, between[block]))
            statuses[blockIdx.y] = told[blockIdx.y] = DAMAGED;
    }
    __syncwarp();
    if (samples) rows_of(between[block] + 9 * lane, samples + (i64)lane * pitch);
}

// Canvases out of planes. Those of an image that is not GOOD stay as they are.
extern "C" __global__ void __launch_bounds__(256)
place_images(const i64* images, const int* statuses, void* out, i64 height, i64 width, i64 type) {
    if (statuses[blockIdx.y] != GOOD) return;
    Canvases canvases = {out, (int)height, (int)width, (int)type};
    int groups = (canvases.width + GROUP - 1) / GROUP;
    int index = (int)(blockIdx.x * blockDim.x + threadIdx.x), y = index / groups * LINES;
    if (y < canvases.height)
        place(images + (i64)blockIdx.y * COLUMNS, &canvases, y, index % groups * GROUP);
}

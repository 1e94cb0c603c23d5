// Baseline JPEG to planes of Y, Cb and Cr, for many images at a time: one thread block an image.
//
// Huffman codes of a JPEG can be read from any bit on: after some wrong symbols a reader falls into
// step with one that began at the start (A. Weissenberger, B. Schmidt: Massively Parallel Huffman
// Decoding on GPUs, ICPP 2018; Accelerating JPEG Decompression on GPUs, HiPC 2021). So each thread
// takes a share of the scan, and reads it again from where the thread before it ended until nobody
// ends elsewhere than before. Then everybody knows which blocks are in its share, and stores them,
// as pairs of a run and a value, from which the transform puts them together.
//
// The inverse transform is the one of Loeffler, Ligtenberg and Moschytz (Practical Fast 1-D DCT
// Algorithms with 11 Multiplications, ICASSP 1989) in the fixed point of libjpeg's slow and exact
// method, so that the samples are the CPU decoder's. Formats: ITU-T T.81.
//
// The files of this folder are one source, in the order types, pairs, segments, bits, scan, dc,
// transform, pixels, groups, place, kernels. All but the last are C that is also C++: tests compile
// them for the CPU and run the phases of a block in turn. Between phases, all threads of a block,
// or those of a warp, wait for each other.

#ifdef __CUDACC__
#define DEVICE static __device__ __forceinline__
#define UNROLLED _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define CONSTANT static __device__ __constant__ const
#else
#define DEVICE static inline
#define UNROLLED
#define ROLLED
#define CONSTANT static const
typedef struct { unsigned int x, y, z, w; } uint4;
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#ifndef THREADS
#define THREADS 256    // of a block that reads one image
#endif
#define MOST_THREADS 512 // that there may be: a pair has bits for a reader's number
#define GROUPS 16      // of threads, whose results are summed up in turn
#define SHARE_BITS 512 // shares are no shorter: a reader needs some room to fall into step
#define LOOK_BITS 11   // of AC: symbols that take so many together are found in one look
#define DC_BITS 7      // codes of DC so short are; four less, for `Turn`
#define PADDING 32     // bytes behind the scan, for readers that look ahead

// The columns of the table that describes images, one row each (`jpeg.describe`): addresses of the
// planes and of room for the work; bytes from row to row of luma and of chroma, the latter 0 of a
// gray image; height and width as stored; luma samples per chroma sample, across and down; the
// file's address and bytes; its EXIF orientation; height and width on the canvas, rows above and
// columns to the left of it, which canvas; and source pixels per canvas pixel, vertical and
// horizontal, as the bits of two doubles.
enum {
    LUMA, BLUE, RED, WORK, LUMA_PITCH, CHROMA_PITCH, HEIGHT, WIDTH, ACROSS, DOWN,
    FILE_AT, FILE_BYTES, ORIENTATION, RESIZED_HEIGHT, RESIZED_WIDTH, TOP, LEFT, CANVAS,
    SCALE_Y, SCALE_X, COLUMNS
};

// What became of an image.
#define GOOD 0
#define UNSUPPORTED 1 // not a baseline JPEG of one or three components in one scan, or out of room
#define DAMAGED 2     // what the scan says cannot be right

// Where the coefficients of a block are kept, which come in zigzag order: column by column, since
// the transform's first pass is over columns.
CONSTANT u8 NATURAL[64] = {
    0, 8, 1, 2, 9, 16, 24, 17, 10, 3, 4, 11, 18, 25, 32, 40, 33, 26, 19, 12, 5, 6,
    13, 20, 27, 34, 41, 48, 56, 49, 42, 35, 28, 21, 14, 7, 15, 22, 29, 36, 43, 50, 57, 58,
    51, 44, 37, 30, 23, 31, 38, 45, 52, 59, 60, 53, 46, 39, 47, 54, 61, 62, 55, 63};

// Where a reader is: the next bit, which block of its MCU that belongs to, and which coefficient.
typedef struct {
    u32 bit;
    int part, coefficient;
} Place;

// A block of the MCU, and how to get on from it. Tables are known by a number that is also what a
// look shifts by, in its lowest five bits (`table_number`).
typedef struct {
    u32 ac, dc; // tables of AC in this block, and of DC in the one behind it
    u32 next;   // where the one behind it is
    u32 part;   // which one this is
} __attribute__((aligned(16))) Turn;

#define TURNS 6 // blocks of an MCU, at most

// What is in a share: blocks that end there; of its blocks, the sums of DC's differences since the
// last restart, and whether there was one.
typedef struct {
    int blocks;
    u16 sums[3], restarts;
} Totals;

typedef struct {
    u32 looks[2 * (1 << LOOK_BITS) + 1 + 2 * (1 << DC_BITS)]; // tables: AC 0, 1, DC 0, 1
    Turn turns[TURNS];
    // Tables as the file counts them, DC 0, 1, AC 0, 1:
    u32 above[4][17];            // first code longer than so many bits, left-aligned to 16 bits
    int values_at[4][17];        // a code of that length, added to this, is the index of its symbol
    u16 steps[4][256];           // of symbols without their codes
    u16 begins[THREADS], ends[THREADS]; // packed places
    u16 listed[THREADS];                // readers that have to read
    int listed_count[2];                // how many, in rounds that are even and odd
    union {
        // Named, as compilers of CUDA before 12.8 want it.
        struct { int kept[THREADS], restarts[THREADS]; } chunks; // before one: bytes, markers
        Totals totals[THREADS];
    };
    Totals groups[GROUPS];
    int kept_groups[GROUPS], restart_groups[GROUPS];
    int tables[4], quantisers[4];         // where they lie in the file, or 0
    int quantiser_of[3], dc_of[3], ac_of[3];
    int components, across, down;
    int parts; // blocks of an MCU
    int across_mcus, mcus, interval;
    int scan, stop;       // bytes of the file
    int bytes, segments;  // of the scan without stuffing; restart intervals
    u32 share;            // bits
    int readers, status;
} Block;

// What the scan has of a block.
typedef struct {
    u32 pairs; // where the first one is
    int dc;    // the difference, later the sum
} __attribute__((aligned(8))) Record;

// What a block works on.
typedef struct {
    const u8* raw; // the file
    int length;
    u8* bits;        // the scan without stuffing and markers
    u16* pairs;      // room for one a coefficient, and one a reader
    Record* records; // one a block of the scan
    u16* quantisers; // 3 x 64, in the coefficients' order
    int room;        // bytes that `bits` and `starts` may take
} Work;

// A place near a bit that both sides know: readers stop less than 32 bits behind their limit.
DEVICE u16 packed(Place place, u32 near) {
    return (u16)((place.bit - near) << 9 | (u32)(place.part << 6) | (u32)place.coefficient);
}

DEVICE Place unpacked(u32 value, u32 near) {
    Place place = {near + (value >> 9), (int)(value >> 6 & 7), (int)(value & 63)};
    return place;
}

// Where a part of the block is, as a number that fits a register: on a device in shared memory.
DEVICE u32 number_of(const Block* block, const void* at) {
#ifdef __CUDACC__
    (void)block;
    return (u32)__cvta_generic_to_shared(at);
#else
    return (u32)((const u8*)at - (const u8*)block);
#endif
}

DEVICE const void* at_number(const Block* block, u32 number) {
#ifdef __CUDACC__
    (void)block;
    return __cvta_shared_to_generic(number);
#else
    return (const u8*)block + number;
#endif
}

// All of it in one load.
DEVICE Turn turn_at(const Block* block, u32 number) {
#ifdef __CUDACC__
    const uint4 all = *(const uint4*)at_number(block, number);
    Turn turn = {all.x, all.y, all.z, all.w};
    return turn;
#else
    return *(const Turn*)at_number(block, number);
#endif
}

DEVICE int least(int a, int b) { return a < b ? a : b; }

DEVICE int rounded_up(int value, int step) { return (value + step - 1) / step * step; }

// The upper word of two, shifted by the lowest five bits of `by`.
DEVICE u32 shifted(u32 high, u32 low, u32 by) {
#ifdef __CUDACC__
    return __funnelshift_l(low, high, by);
#else
    return (u32)(((u64)high << 32 | low) << (by & 31) >> 32);
#endif
}

// An address of the device's memory: told so, the compiler has cheaper ways to get there.
DEVICE void* address_of(i64 number) {
    void* address = (void*)number;
#ifdef __CUDACC__
    __builtin_assume(__isGlobal(address));
#endif
    return address;
}

// Records that there is room for. A block that is one too many has one, too.
DEVICE int records_of(int room) { return rounded_up(room / 64 + 1, 2); }

DEVICE Work work_of(const i64* image) {
    Work work;
    int down = (int)image[DOWN] - 1, rows = ((int)image[HEIGHT] + (8 << down) - 1) & -(8 << down);
    int luma = rows * (int)image[LUMA_PITCH];
    int chroma = (rows >> down) * (int)image[CHROMA_PITCH];
    work.raw = (const u8*)address_of(image[FILE_AT]);
    work.length = (int)image[FILE_BYTES];
    work.bits = (u8*)address_of(image[LUMA]); // the planes are written when it has been read
    work.room = luma + 2 * chroma;
    work.pairs = (u16*)address_of(image[WORK]);
    work.records = (Record*)(work.pairs + work.room + MOST_THREADS);
    work.quantisers = (u16*)(work.records + records_of(work.room));
    return work;
}

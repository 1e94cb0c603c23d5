// The inverse transform, in two passes over eight columns and eight rows.

#define FIXED(x) ((int)((x) * 8192 + 0.5))

#ifndef TRANSFORMS
#define TRANSFORMS 4 // blocks of samples that a thread works on, one after the other
#endif

DEVICE u32 larger(u32 a, u32 b) { return a > b ? a : b; }

// One dimension: eight values, `shift` bits of which are rounded away, and what is added to them.
DEVICE void transform(const int in[8], int out[8], int shift, int added) {
    int half = (1 << (shift - 1)) + (added << shift);
    // Even: a rotation by 3 pi / 8 of 2 and 6, and a butterfly of 0 and 4.
    int turned = (in[2] + in[6]) * FIXED(0.541196100);
    int low = turned - in[6] * FIXED(1.847759065), high = turned + in[2] * FIXED(0.765366865);
    int sum = (in[0] + in[4]) * 8192 + half, difference = (in[0] - in[4]) * 8192 + half;
    int even[4] = {sum + high, difference + low, difference - low, sum - high};
    // Odd: the rotations by pi / 16 and 3 pi / 16, in their form with the fewest products.
    int common = (in[7] + in[3] + in[5] + in[1]) * FIXED(1.175875602);
    int a = -(in[7] + in[1]) * FIXED(0.899976223), b = -(in[5] + in[3]) * FIXED(2.562915447);
    int c = common - (in[7] + in[3]) * FIXED(1.961570560);
    int d = common - (in[5] + in[1]) * FIXED(0.390180644);
    int odd[4] = {
        in[1] * FIXED(1.501321110) + a + d, in[3] * FIXED(3.072711026) + b + c,
        in[5] * FIXED(2.053119869) + b + d, in[7] * FIXED(0.298631336) + a + c};
    for (int i = 0; i < 4; i++) {
        out[i] = (even[i] + odd[i]) >> shift;
        out[7 - i] = (even[i] - odd[i]) >> shift;
    }
}

// The blocks of an image: those of luma in the plane's order, then those of blue, then of red.
typedef struct {
    int across, down;     // whether chroma is halved in these directions
    int columns, mcus;    // MCUs side by side, and all of them
    int luma, count;      // blocks of luma, and all of them
    int parts;            // blocks of an MCU
    u32 inverse;          // of `columns`, in 1/2^32, rounded down
} Blocks;

DEVICE Blocks blocks_of(const i64* image) {
    Blocks blocks;
    blocks.across = (int)image[ACROSS] - 1;
    blocks.down = (int)image[DOWN] - 1;
    int wide = 3 + blocks.across, high = 3 + blocks.down;
    blocks.columns = ((int)image[WIDTH] + (1 << wide) - 1) >> wide;
    blocks.mcus = blocks.columns * (((int)image[HEIGHT] + (1 << high) - 1) >> high);
    blocks.luma = blocks.mcus << (blocks.across + blocks.down);
    blocks.parts = (1 << (blocks.across + blocks.down)) + (image[CHROMA_PITCH] ? 2 : 0);
    blocks.count = blocks.mcus * blocks.parts;
    blocks.inverse = 0xffffffffu / (u32)blocks.columns;
    return blocks;
}

// Which component's a block is, where its samples go, and which block of the scan it was.
typedef struct {
    int component, pitch, scanned;
    u8* samples;
} Target;

DEVICE Target target_of(const i64* image, const Blocks* blocks, int index) {
    Target target;
    int component = index < blocks->luma ? 0 : index < blocks->luma + blocks->mcus ? 1 : 2;
    if (component) index -= blocks->luma + (component - 1) * blocks->mcus;
    int across = component ? 0 : blocks->across, down = component ? 0 : blocks->down;
    int columns = blocks->columns << across;
    // The product with the inverse is the quotient or one less.
    int y = (int)((u64)(u32)index * (blocks->inverse >> across) >> 32), x = index - y * columns;
    if (x >= columns) x -= columns, y++;
    int mcu = (y >> down) * blocks->columns + (x >> across);
    int part = component ? blocks->parts - 3 + component : ((y & down) << across) + (x & across);
    target.component = component;
    target.scanned = mcu * blocks->parts + part;
    target.pitch = (int)(component ? image[CHROMA_PITCH] : image[LUMA_PITCH]);
    target.samples = (u8*)image[LUMA + component] + (i64)y * 8 * target.pitch + x * 8;
    return target;
}

// The quantisers of a component's column.
DEVICE void quantisers_of(const u16* quantisers, int component, int column, int* factors) {
    const uint4 line = ((const uint4*)quantisers)[8 * component + column];
    const u32 pairs[4] = {line.x, line.y, line.z, line.w};
    UNROLLED
    for (int i = 0; i < 8; i++) factors[i] = (int)(pairs[i / 2] >> i % 2 * 16 & 0xffff);
}

// Returns whether the numbers are so large that libjpeg's vector units would compute something
// else: no encoder writes such.
DEVICE int columns_of(const i16* coefficients, const int* factors, int column, int* between) {
    const uint4 line = ((const uint4*)coefficients)[column];
    const u32 pairs[4] = {line.x, line.y, line.z, line.w};
    int in[8], out[8];
    u32 most = 0;
    UNROLLED
    for (int i = 0; i < 8; i++) {
        in[i] = (i % 2 ? (int)pairs[i / 2] >> 16 : (i16)pairs[i / 2]) * factors[i];
        most = larger(most, (u32)(in[i] + 8191));
    }
    int wild = most > 2 * 8191;
    if (wild)
        for (int i = 0; i < 8; i++) in[i] = 0;
    transform(in, out, 11, 0);
    most = 0;
    UNROLLED
    for (int i = 0; i < 8; i++) {
        most = larger(most, (u32)(out[i] + 16383));
        between[9 * i + column] = out[i];
    }
    if (most <= 2 * 16383) return wild;
    for (int i = 0; i < 8; i++) between[9 * i + column] = 0;
    return 1;
}

// Four values as bytes, the first one lowest; what does not fit is limited.
DEVICE u32 bytes_of(int a, int b, int c, int d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 720
    u32 upper, all;
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, 0;" : "=r"(upper) : "r"(d), "r"(c));
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(all) : "r"(b), "r"(a), "r"(upper));
    return all;
#else
    const int values[4] = {a, b, c, d};
    u32 all = 0;
    for (int i = 3; i >= 0; i--)
        all = all << 8 | (u32)(values[i] < 0 ? 0 : values[i] > 255 ? 255 : values[i]);
    return all;
#endif
}

DEVICE void rows_of(const int* between, u8* samples) {
    int in[8], out[8];
    UNROLLED
    for (int i = 0; i < 8; i++) in[i] = between[i];
    transform(in, out, 18, 128);
    u32 left = bytes_of(out[0], out[1], out[2], out[3]);
    *(u64*)samples = (u64)bytes_of(out[4], out[5], out[6], out[7]) << 32 | left;
}

// The inverse transform, in two passes over eight columns and eight rows.

#define FIXED(x) ((int)((x) * 8192 + 0.5))

// One dimension: eight values, `shift` bits of which are rounded away.
DEVICE void transform(const int in[8], int out[8], int shift) {
    int half = 1 << (shift - 1);
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

// Where a block's samples go, which component's it is, and which block of the scan it was.
DEVICE u8* samples_of(const i64* image, int index, int* component, int* pitch, int* scanned) {
    int width = (int)image[WIDTH], height = (int)image[HEIGHT];
    int across = (int)image[ACROSS], down = (int)image[DOWN];
    int columns = (width + 8 * across - 1) / (8 * across);
    int mcus = columns * ((height + 8 * down - 1) / (8 * down)), luma = mcus * across * down;
    if (index >= luma + (image[CHROMA_PITCH] ? 2 * mcus : 0)) return 0;
    *component = index < luma ? 0 : index < luma + mcus ? 1 : 2;
    int parts = across * down + (image[CHROMA_PITCH] ? 2 : 0);
    if (*component) {
        index -= luma + (*component - 1) * mcus;
        *scanned = index * parts + across * down + *component - 1;
    } else {
        int y = index / (columns * across), x = index - y * columns * across;
        int mcu = y / down * columns + x / across;
        *scanned = mcu * parts + y % down * across + x % across;
        columns *= across;
    }
    *pitch = (int)(*component ? image[CHROMA_PITCH] : image[LUMA_PITCH]);
    u8* plane = (u8*)image[LUMA + *component];
    return plane + (i64)(index / columns) * 8 * *pitch + index % columns * 8;
}

// Returns whether the numbers are so large that libjpeg's vector units would compute something
// else: no encoder writes such.
DEVICE int columns_of(const i16* coefficients, const u16* quantisers, int column, int* between) {
    int in[8], out[8], wild = 0;
    for (int i = 0; i < 8; i++) {
        in[i] = coefficients[8 * i + column] * quantisers[8 * i + column];
        if (in[i] > 8191 || in[i] < -8191) in[i] = 0, wild = 1;
    }
    transform(in, out, 11);
    for (int i = 0; i < 8; i++) {
        if (out[i] > 16383 || out[i] < -16383) out[i] = 0, wild = 1;
        between[9 * i + column] = out[i];
    }
    return wild;
}

DEVICE void rows_of(const int* between, u8* samples) {
    int in[8], out[8];
    for (int i = 0; i < 8; i++) in[i] = between[i];
    transform(in, out, 18);
    u64 line = 0;
    for (int i = 7; i >= 0; i--) {
        int level = out[i] + 128;
        line = line << 8 | (u64)(level < 0 ? 0 : level > 255 ? 255 : level);
    }
    *(u64*)samples = line;
}

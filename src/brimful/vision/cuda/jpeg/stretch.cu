// GROUP pixels side by side of an image that is resized: the same arithmetic as for one pixel, but a
// source pixel is converted once for all that are made of it, and a source row, stretched to the
// group's columns, is kept for the rows below.

#define CHANNELS 3
#define NO_ROW (-1)

// Two numbers of 16 bits for each channel and pair of pixels: sums of a source row by the weights of
// its columns, divided by 16, which are 15 bits.
#define STRETCHED (CHANNELS * GROUP / 2)

// A group on its way down a resized image.
typedef struct {
    int base;        // of the source, a column that none of the group's lies left of
    u32 taps[GROUP]; // packed: the column less `base`, the weight, what both weights have too much
    int rows[2];     // of the source that are here
    u32 sums[2][STRETCHED];
} Stretch;

// Weights nearly always add up to 2048. Each is rounded, so one may be missing or too many.
DEVICE u32 packed_taps(int offset, Taps taps) {
    return (u32)offset << 16 | (u32)taps.weight << 4 | (u32)(taps.weight + taps.second_weight - 2046);
}

DEVICE int first_of(u32 taps) { return (int)(taps >> 4 & 4095); }

DEVICE int second_of(u32 taps) { return (int)(taps & 15) + 2046 - first_of(taps); }

// The taps of a column of the resized image, which lie in the source.
DEVICE Taps inner_taps(int x, i64 scale_bits, int last_column) {
    Taps taps = taps_at(x, scale_bits);
    // Of columns beyond an edge OpenCV takes the last one alone.
    if (taps.first < 0 || taps.first >= last_column) {
        taps.first = limited(taps.first, last_column);
        taps.weight = 2048;
        taps.second_weight = 0;
    }
    return taps;
}

// Begin at a column of the resized image, which may lie left of it.
DEVICE Stretch stretch_at(const Picture* picture, const i64* image, int column) {
    int turned = picture->orientation >= 5, wide = (int)image[RESIZED_WIDTH];
    int last_column = (turned ? picture->height : picture->width) - 1;
    Stretch stretch;
    stretch.rows[0] = stretch.rows[1] = NO_ROW;
    UNROLLED
    for (int i = 0; i < 2 * STRETCHED; i++) stretch.sums[i / STRETCHED][i % STRETCHED] = 0;
    stretch.base = inner_taps(limited(column, wide - 1), image[SCALE_X], last_column).first;
    UNROLLED
    for (int i = 0; i < GROUP; i++) {
        int x = limited(column + i, wide - 1);
        const Taps taps = inner_taps(x, image[SCALE_X], last_column);
        stretch.taps[i] = packed_taps(taps.first - stretch.base, taps);
    }
    return stretch;
}

// Stretch a row of the source.
DEVICE void stretch_row(const Picture* picture, const Stretch* stretch, int row, u32* sums) {
    int column = -2;
    u32 pixel = 0, next = 0; // of `column` and the one behind it
    int next_is_there = 0;
    UNROLLED
    for (int i = 0; i < GROUP; i++) {
        int first = first_of(stretch->taps[i]), second = second_of(stretch->taps[i]);
        int wanted = stretch->base + (int)(stretch->taps[i] >> 16);
        if (wanted != column) {
            pixel = wanted == column + 1 && next_is_there ? next
                                                          : upright_pixel(picture, row, wanted);
            next_is_there = 0;
            column = wanted;
        }
        if (second && !next_is_there) {
            next = upright_pixel(picture, row, wanted + 1);
            next_is_there = 1;
        }
        UNROLLED
        for (int j = 0; j < CHANNELS; j++) {
            u32 sum = (pixel >> 8 * j & 255) * (u32)first;
            if (second) sum += (next >> 8 * j & 255) * (u32)second;
            u32* both = &sums[j * GROUP / 2 + i / 2];
            *both = i % 2 ? (*both & 0xffff) | sum >> 4 << 16 : sum >> 4;
        }
    }
}

// Bring a row of the resized image, red, green and blue of one pixel after the other. Those beside
// the image are undefined.
DEVICE void bring_resized(const Picture* picture, const i64* image, Stretch* stretch, int y,
                          u8* bytes) {
    int turned = picture->orientation >= 5;
    int last_row = (turned ? picture->width : picture->height) - 1;
    const Taps down = taps_at(y, image[SCALE_Y]);
    int upper = limited(down.first, last_row), lower = limited(down.first + 1, last_row);
    if (!down.weight) upper = lower; // a row without weight is not looked at
    if (!down.second_weight) lower = upper;
    // Going down, what was the lower row becomes the upper one.
    if (stretch->rows[0] != upper && stretch->rows[1] == upper) {
        stretch->rows[0] = upper;
        stretch->rows[1] = NO_ROW;
        UNROLLED
        for (int i = 0; i < STRETCHED; i++) stretch->sums[0][i] = stretch->sums[1][i];
    }
    ROLLED
    for (int i = 0; i < 2; i++) {
        int wanted = i ? lower : upper;
        u32 made[STRETCHED];
        if (stretch->rows[i] == wanted || (i && lower == upper)) continue;
        UNROLLED
        for (int j = 0; j < STRETCHED; j++) made[j] = 0;
        stretch_row(picture, stretch, wanted, made);
        if (i) {
            stretch->rows[1] = wanted;
            UNROLLED
            for (int j = 0; j < STRETCHED; j++) stretch->sums[1][j] = made[j];
        } else {
            stretch->rows[0] = wanted;
            UNROLLED
            for (int j = 0; j < STRETCHED; j++) stretch->sums[0][j] = made[j];
        }
    }
    int same = lower == upper;
    UNROLLED
    for (int i = 0; i < GROUP; i++) {
        UNROLLED
        for (int j = 0; j < CHANNELS; j++) {
            int at = j * GROUP / 2 + i / 2;
            u32 above = stretch->sums[0][at] >> i % 2 * 16 & 0xffff;
            u32 below = (same ? stretch->sums[0][at] : stretch->sums[1][at]) >> i % 2 * 16 & 0xffff;
            u32 sum = 2 + ((u32)down.weight * above >> 16) + ((u32)down.second_weight * below >> 16);
            bytes[CHANNELS * i + j] = (u8)(sum >> 2);
        }
    }
}

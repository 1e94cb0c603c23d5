// Pixels of an image out of its planes, one by one.
//
// The pixels are those of libjpeg-turbo's slow and exact way, which is the CPU decoder's: chroma is
// upsampled with its triangle filter ("fancy upsampling": three quarters of the nearer sample and
// one of the farther, in each direction that is subsampled, rounded up and down by turns) and
// converted after JFIF 1.02 in fixed point of 16 bits. They are resized as `cv2.resize` does with
// INTER_LINEAR, with weights of 11 bits.

#define NARROW 2 // chroma columns up to which samples are repeated, not filtered

// How to read an image.
typedef struct {
    const u8 *luma, *blue, *red;
    int gray; // then there is only luma
    i64 luma_pitch, chroma_pitch;
    int last_column, last_row;       // of chroma
    int across, down;                // whether chroma is halved in these directions
    int near_across, far_across, near_down, far_down; // weights of samples
    int height, width, orientation;
} Picture;

DEVICE Picture picture_of(const i64* image) {
    Picture picture;
    picture.luma = (const u8*)image[LUMA];
    picture.blue = (const u8*)image[BLUE];
    picture.red = (const u8*)image[RED];
    picture.gray = image[CHROMA_PITCH] == 0;
    picture.luma_pitch = image[LUMA_PITCH];
    picture.chroma_pitch = image[CHROMA_PITCH];
    picture.height = (int)image[HEIGHT];
    picture.width = (int)image[WIDTH];
    picture.across = image[ACROSS] == 2;
    picture.down = image[DOWN] == 2;
    picture.orientation = (int)image[ORIENTATION];
    picture.last_column = (picture.width - 1) >> picture.across;
    picture.last_row = (picture.height - 1) >> picture.down;
    int repeated = picture.across && picture.last_column < NARROW;
    picture.near_across = picture.across ? repeated ? 4 : 3 : 1;
    picture.far_across = picture.across && !repeated;
    picture.near_down = picture.down ? repeated ? 4 : 3 : 1;
    picture.far_down = picture.down && !repeated;
    return picture;
}

DEVICE int limited(int value, int last) { return value < 0 ? 0 : value > last ? last : value; }

// The weighted sum of a column of chroma, at the row `near` and the one that is next to it.
DEVICE int sum_of(const Picture* picture, const u8* near, const u8* far, int column) {
    column = limited(column, picture->last_column);
    int sum = near[column] * picture->near_down;
    return picture->far_down ? sum + far[column] : sum;
}

// What is added before a sum is rounded down: halves go up and down by turns.
DEVICE int bias_of(const Picture* picture, int y, int x) {
    if (picture->across) return picture->down ? x & 1 ? 7 : 8 : x & 1 ? 2 : 1;
    return picture->down ? 1 + (y & 1) : 0;
}

DEVICE u32 level(int value) { return (u32)limited(value >> 16, 255); }

// A pixel, red lowest, then green and blue.
DEVICE u32 rgb_of(int luma, int blue, int red) {
    luma = (luma << 16) + 32768;
    u32 r = level(luma + (red - 128) * 91881); // JFIF's factors in 1/65536
    u32 g = level(luma - (blue - 128) * 22554 - (red - 128) * 46802);
    u32 b = level(luma + (blue - 128) * 116130);
    return b << 16 | g << 8 | r;
}

// Rows of chroma that a row of pixels is made of: the nearer, and the one next to it.
typedef struct {
    const u8 *blue_near, *blue_far, *red_near, *red_far;
} Rows;

DEVICE Rows rows_at(const Picture* picture, int y) {
    i64 near = picture->down ? y >> 1 : y;
    i64 far = picture->down ? limited((y >> 1) + (y & 1) * 2 - 1, picture->last_row) : y;
    near *= picture->chroma_pitch;
    far *= picture->chroma_pitch;
    const u8 *blue = picture->blue, *red = picture->red;
    Rows rows = {blue + near, blue + far, red + near, red + far};
    return rows;
}

// The pixel at a place as stored.
DEVICE u32 stored_pixel(const Picture* picture, int y, int x) {
    if (picture->gray) return 0x010101u * picture->luma[y * picture->luma_pitch + x];
    Rows rows = rows_at(picture, y);
    int near = picture->across ? x >> 1 : x, far = near + (x & 1) * 2 - 1;
    int blue = sum_of(picture, rows.blue_near, rows.blue_far, near) * picture->near_across;
    int red = sum_of(picture, rows.red_near, rows.red_far, near) * picture->near_across;
    if (picture->far_across) {
        blue += sum_of(picture, rows.blue_near, rows.blue_far, far);
        red += sum_of(picture, rows.red_near, rows.red_far, far);
    }
    int bias = bias_of(picture, y, x), shift = 2 * (picture->across + picture->down);
    int luma = picture->luma[y * picture->luma_pitch + x];
    return rgb_of(luma, (blue + bias) >> shift, (red + bias) >> shift);
}

// The pixel at a place of the image as it is meant to be seen.
DEVICE u32 upright_pixel(const Picture* picture, int y, int x) {
    int turned = picture->orientation >= 5, from = picture->orientation;
    int row = turned ? x : y, column = turned ? y : x;
    if (from == 3 || from == 4 || from == 6 || from == 7) row = picture->height - 1 - row;
    if (from == 2 || from == 3 || from == 7 || from == 8) column = picture->width - 1 - column;
    return stored_pixel(picture, row, column);
}

// Two source positions and their weights in 1/2048: as OpenCV has it, the position is computed in
// double precision and rounded to single before it is split.
typedef struct {
    int first, weight, second_weight;
} Taps;

DEVICE Taps taps_at(int position, i64 scale_bits) {
    union { i64 bits; double value; } scale = {scale_bits};
    float centre = (float)((position + 0.5) * scale.value - 0.5);
    Taps taps;
    taps.first = (int)centre - (centre < (float)(int)centre);
    float part = centre - (float)taps.first;
    // Adding and taking away 1.5 * 2^23 rounds half to even.
    taps.weight = (int)(((1.0f - part) * 2048.0f + 12582912.0f) - 12582912.0f);
    taps.second_weight = (int)((part * 2048.0f + 12582912.0f) - 12582912.0f);
    return taps;
}

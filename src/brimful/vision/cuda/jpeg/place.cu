// From planes onto the canvas: chroma is upsampled, colours are converted, pixels resized and
// normalised, all for one pixel of the canvas after the other.
//
// The pixels are those of libjpeg-turbo's slow and exact way, which is the CPU decoder's: chroma is
// upsampled with its triangle filter ("fancy upsampling": three quarters of the nearer sample and
// one of the farther, in each direction that is subsampled, rounded up and down by turns) and
// converted after JFIF 1.02 in fixed point of 16 bits. They are resized as `cv2.resize` does with
// INTER_LINEAR, with weights of 11 bits.

#define PAD 114
#define GROUP 4  // pixels side by side that a thread writes
#define LINES 8  // and rows of these
#define NARROW 2 // chroma columns up to which samples are repeated, not filtered

#define FLOAT32 0
#define FLOAT16 1
#define BFLOAT16 2

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

// Pixels side by side in a row as stored, the first at an even column, where chroma is halved
// across: they share samples.
DEVICE void stored_pixels(const Picture* picture, int y, int x, u32* pixels) {
    Rows rows = rows_at(picture, y);
    int blue[GROUP / 2 + 2], red[GROUP / 2 + 2], shift = 2 + 2 * picture->down;
    for (int i = 0; i < GROUP / 2 + 2; i++) {
        blue[i] = sum_of(picture, rows.blue_near, rows.blue_far, (x >> 1) + i - 1);
        red[i] = sum_of(picture, rows.red_near, rows.red_far, (x >> 1) + i - 1);
    }
    const u8* luma = picture->luma + y * picture->luma_pitch + x;
    for (int i = 0; i < GROUP; i++) {
        int near = 1 + i / 2, far = near + (i & 1) * 2 - 1, bias = bias_of(picture, y, i);
        int of_blue = blue[near] * picture->near_across + blue[far] * picture->far_across;
        int of_red = red[near] * picture->near_across + red[far] * picture->far_across;
        pixels[i] = rgb_of(luma[i], (of_blue + bias) >> shift, (of_red + bias) >> shift);
    }
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

// A pixel of the resized image.
DEVICE u32 resized_pixel(const Picture* picture, const i64* image, int y, int x) {
    int turned = picture->orientation >= 5;
    int last_row = (turned ? picture->width : picture->height) - 1;
    int last_column = (turned ? picture->height : picture->width) - 1;
    Taps across = taps_at(x, image[SCALE_X]), down = taps_at(y, image[SCALE_Y]);
    int left = limited(across.first, last_column), right = left + 1;
    // Beyond an edge OpenCV repeats rows with the weights as they are, but of columns it takes the
    // last one alone. The sums are rounded down, so the difference can be seen.
    if (across.first < 0 || across.first >= last_column) {
        across.weight = 2048;
        across.second_weight = 0;
        right = left;
    }
    int upper = limited(down.first, last_row), lower = limited(down.first + 1, last_row);
    u32 corners[4] = {
        upright_pixel(picture, upper, left), upright_pixel(picture, upper, right),
        upright_pixel(picture, lower, left), upright_pixel(picture, lower, right)};
    u32 pixel = 0;
    for (int shift = 0; shift < 24; shift += 8) {
        int above = (int)(corners[0] >> shift & 255) * across.weight +
                    (int)(corners[1] >> shift & 255) * across.second_weight;
        int below = (int)(corners[2] >> shift & 255) * across.weight +
                    (int)(corners[3] >> shift & 255) * across.second_weight;
        above = (down.weight * (above >> 4)) >> 16;
        below = (down.second_weight * (below >> 4)) >> 16;
        pixel |= (u32)((above + below + 2) >> 2) << shift;
    }
    return pixel;
}

DEVICE u16 half_of(float value) {
#ifdef __CUDACC__
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
#else
    union { _Float16 value; u16 bits; } half = {(_Float16)value};
    return half.bits;
#endif
}

DEVICE u16 brain_of(float value) {
    union { float value; u32 bits; } whole = {value};
    return (u16)((whole.bits + 0x7fff + (whole.bits >> 16 & 1)) >> 16);
}

// level / 255, exact as far as the type goes. In float32 one product is not enough: 257 / 65536 are
// the first two digits of 1/255 in base 256, so that the product with them has no error, and the
// other one no weight.
DEVICE float float32_of(u32 level) {
    return (float)level * 0.0039215087890625f + (float)level * 5.983838848033773e-08f;
}

DEVICE u64 small_of(u32 level, int type) {
    float value = (float)level * 0.00392156862745098f;
    return type == FLOAT16 ? half_of(value) : brain_of(value);
}

// The canvases: (canvas, height, width, RGB).
typedef struct {
    void* out;
    int height, width, type;
} Canvases;

// Write GROUP pixels of a canvas, as values of 16 bits or of 32.
DEVICE void write_pixels(const Canvases* canvases, i64 at, const u32* pixels, int count) {
    int type = canvases->type;
    if (type == FLOAT32) {
        for (int i = 0; i < 3 * GROUP && i < 3 * count; i++)
            ((float*)canvases->out)[at + i] = float32_of(pixels[i / 3] >> (i % 3 * 8) & 255);
    } else if (canvases->width % GROUP == 0) {
        for (int i = 0; i < 3; i++) {
            u64 four = 0;
            for (int j = 4 * i + 3; j >= 4 * i; j--)
                four = four << 16 | small_of(pixels[j / 3] >> (j % 3 * 8) & 255, type);
            ((u64*)((u16*)canvases->out + at))[i] = four;
        }
    } else {
        for (int i = 0; i < 3 * GROUP && i < 3 * count; i++)
            ((u16*)canvases->out)[at + i] = (u16)small_of(pixels[i / 3] >> (i % 3 * 8) & 255, type);
    }
}

// Place LINES rows of GROUP pixels, from row y and column x of the canvas on.
DEVICE void place(const i64* image, const Canvases* canvases, int y, int x) {
    const Picture picture = picture_of(image);
    int high = (int)image[RESIZED_HEIGHT], wide = (int)image[RESIZED_WIDTH];
    int top = (int)image[TOP], column = x - (int)image[LEFT], turned = picture.orientation >= 5;
    int same = high == (turned ? picture.width : picture.height) &&
               wide == (turned ? picture.height : picture.width);
    int shared = same && picture.orientation == 1 && picture.across && column % 2 == 0 &&
                 column >= 0 && column + GROUP <= wide;
    int last = least(y + LINES, canvases->height);
    for (; y < last; y++) {
        int row = y - top, inside = row >= 0 && row < high;
        u32 pixels[GROUP];
        if (inside && shared) {
            stored_pixels(&picture, row, column, pixels);
        } else {
            for (int i = 0; i < GROUP; i++) {
                pixels[i] = PAD << 16 | PAD << 8 | PAD;
                if (inside && column + i >= 0 && column + i < wide)
                    pixels[i] = same ? upright_pixel(&picture, row, column + i)
                                     : resized_pixel(&picture, image, row, column + i);
            }
        }
        i64 at = (((i64)image[CANVAS] * canvases->height + y) * canvases->width + x) * 3;
        write_pixels(canvases, at, pixels, canvases->width - x);
    }
}

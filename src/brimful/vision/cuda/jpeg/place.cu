// From planes onto the canvas: pixels are resized and normalised, a group after the other.
//
// Groups are 48 bytes of a canvas in half precision, which would be written in parts of 16 with
// gaps between them. So a warp puts theirs together first, and each thread then writes parts that
// lie next to its neighbours'.

#ifndef LINES
#define LINES 8 // rows of groups that a thread works on, one below the other
#endif
#ifndef RESIDENT
#define RESIDENT 4 // blocks of 256 threads that a multiprocessor has registers for, at least
#endif
#define LANES 32           // threads that put their groups together
#define GROUP_PARTS 3      // of 16 bytes, in a group of 16-bit values

// How the pixels of an image come.
#define TURNED 0  // one by one
#define GROUPED 1 // in groups, as they are, where they are, and filtered
#define RESIZED 2 // in groups that are stretched

#define FLOAT32 0
#define FLOAT16 1
#define BFLOAT16 2

DEVICE u16 half_of(u32 level) { return (u16)halves_of(LEVEL | level << 16, LEVEL); }

DEVICE u16 brain_of(u32 level) {
    union { float value; u32 bits; } whole = {(float)level * 0.00392156862745098f};
    return (u16)((whole.bits + 0x7fff + (whole.bits >> 16 & 1)) >> 16);
}

// level / 255, exact as far as the type goes. In float32 one product is not enough: 257 / 65536 are
// the first two digits of 1/255 in base 256, so that the product with them has no error, and the
// other one no weight.
DEVICE float float32_of(u32 level) {
    return (float)level * 0.0039215087890625f + (float)level * 5.983838848033773e-08f;
}

// The canvases: (canvas, height, width, RGB).
typedef struct {
    void* out;
    int height, width, type;
    int joint; // whether groups are whole and begin at multiples of 16 bytes
} Canvases;

DEVICE Canvases canvases_of(void* out, i64 height, i64 width, i64 type) {
    Canvases canvases = {out, (int)height, (int)width, (int)type, 0};
    canvases.joint = type != FLOAT32 && width % GROUP == 0 && (u64)out % 16 == 0;
    return canvases;
}

DEVICE void write_value(void* out, i64 at, int type, u32 level) {
    if (type == FLOAT32) ((float*)out)[at] = float32_of(level);
    else ((u16*)out)[at] = type == FLOAT16 ? half_of(level) : brain_of(level);
}

// What the threads of a warp have put together: a row of each one's group.
typedef struct {
    uint4 parts[LANES * GROUP_PARTS];
    int at[LANES];   // where the first row goes, in parts of the canvas
    int rows[LANES]; // how many there are
} Joint;

// A thread's groups.
typedef struct {
    Picture picture;
    Group group;
    Stretch stretch; // if it is resized
    int row, rows;   // of the image, where the first one is, and how many
} Strip;

DEVICE int is_resized(const i64* image) {
    int turned = image[ORIENTATION] >= 5;
    return image[RESIZED_HEIGHT] != image[turned ? WIDTH : HEIGHT] ||
           image[RESIZED_WIDTH] != image[turned ? HEIGHT : WIDTH];
}

// Whether an image's pixels come in groups: as they are, where they are, and filtered.
DEVICE int is_grouped(const i64* image) {
    return !is_resized(image) && image[ORIENTATION] == 1 &&
           (image[ACROSS] == 1 || (image[WIDTH] - 1) / 2 >= NARROW);
}

DEVICE Strip strip_of(const i64* image, const Canvases* canvases, int index, int way) {
    Strip strip;
    strip.picture = picture_of(image);
    int groups = (canvases->width + GROUP - 1) / GROUP;
    int y = index / groups * LINES;
    strip.row = y - (int)image[TOP];
    strip.rows = limited(canvases->height - y, LINES);
    strip.group.column = index % groups * GROUP - (int)image[LEFT];
    UNROLLED
    for (int i = 0; i < 2 * GROUP; i++) {
        strip.group.rows[i / GROUP] = -1;
        strip.group.samples[i / GROUP][i % GROUP] = 0;
    }
    if (way == RESIZED) strip.stretch = stretch_at(&strip.picture, image, strip.group.column);
    return strip;
}

DEVICE int way_of(const i64* image) {
    return is_resized(image) ? RESIZED : is_grouped(image) ? GROUPED : TURNED;
}

// The levels of a group's row of an image that is turned, pixel after pixel.
DEVICE void read_pixels(const i64* image, int row, int column, u8* bytes) {
    const Picture picture = picture_of(image); // again: not all of it is needed everywhere
    int wide = (int)image[RESIZED_WIDTH];
    ROLLED
    for (int i = 0; i < GROUP; i++) {
        if (column + i < 0 || column + i >= wide) continue;
        u32 pixel = upright_pixel(&picture, row, column + i);
        for (int j = 0; j < 3; j++) bytes[3 * i + j] = (u8)(pixel >> 8 * j);
    }
}

// Make a thread's row of the canvas, the first one of its strip being 0: in `parts`, or, if groups
// are not joint, in the canvas. `way`: as `way_of` says.
DEVICE void make_row(Strip* strip, const i64* image, const Canvases* canvases, int line,
                     uint4* parts, int way) {
    int row = strip->row + line, column = strip->group.column;
    if (line >= strip->rows) return;
    int high = way == GROUPED ? strip->picture.height : (int)image[RESIZED_HEIGHT];
    int wide = way == GROUPED ? strip->picture.width : (int)image[RESIZED_WIDTH];
    // Values of 16 bits may take the place of bytes: those that have been read.
    u8* bytes = (u8*)parts + 3 * GROUP;
    int first = least(GROUP, -column), behind = wide - column; // pixels of the image
    int inside = row >= 0 && row < high && first < GROUP && behind > 0;
    int halves = canvases->joint && canvases->type == FLOAT16 && inside && way == GROUPED;
    if (!inside) behind = 0;
    else if (way == TURNED) read_pixels(image, row, column, bytes);
    else if (way == RESIZED) bring_resized(&strip->picture, image, &strip->stretch, row, bytes);
    else bring_pixels(&strip->picture, &strip->group, row, halves ? parts : 0, bytes);
    if (first > 0 || behind < GROUP) {
        u16 gray = half_of(PAD);
        ROLLED
        for (int i = 0; i < 3 * GROUP; i++) {
            if (i / 3 >= first && i / 3 < behind) continue;
            if (halves) ((u16*)parts)[i] = gray;
            else bytes[i] = PAD;
        }
    }
    if (halves) return;
    void* out = parts;
    i64 at = 0;
    int count = GROUP;
    if (!canvases->joint) {
        out = canvases->out;
        int x = column + (int)image[LEFT], y = row + (int)image[TOP];
        at = ((image[CANVAS] * canvases->height + y) * canvases->width + x) * 3;
        count = least(GROUP, canvases->width - x);
    }
    ROLLED
    for (int i = 0; i < 3 * count; i++) write_value(out, at + i, canvases->type, bytes[i]);
}

// Say where a thread's groups go.
DEVICE void announce(Joint* joint, const Strip* strip, const i64* image, const Canvases* canvases,
                     int lane) {
    int x = strip->group.column + (int)image[LEFT], y = strip->row + (int)image[TOP];
    joint->at[lane] = (y * (canvases->width / GROUP) + x / GROUP) * GROUP_PARTS;
    joint->rows[lane] = strip->rows;
}

// Which of these a thread writes: every LANES-th part of each row.
typedef struct {
    uint4* canvas;
    int at[GROUP_PARTS]; // where those of the first row go
    u32 rows;            // how many rows there are, a byte each
} Share;

DEVICE Share share_of(const Joint* joint, const i64* image, const Canvases* canvases, int lane) {
    i64 size = (i64)canvases->height * canvases->width / GROUP * GROUP_PARTS;
    Share share;
    share.canvas = (uint4*)canvases->out + image[CANVAS] * size;
    share.rows = 0;
    UNROLLED
    for (int i = 0; i < GROUP_PARTS; i++) {
        int part = i * LANES + lane, from = part / GROUP_PARTS;
        share.at[i] = joint->at[from] + part % GROUP_PARTS;
        share.rows |= (u32)joint->rows[from] << 8 * i;
    }
    return share;
}

// Write a row that has been put together.
DEVICE void write_joint(const Joint* joint, const Share* share, const Canvases* canvases, int line,
                        int lane) {
    int below = line * (canvases->width / GROUP * GROUP_PARTS);
    UNROLLED
    for (int i = 0; i < GROUP_PARTS; i++)
        if (line < (int)(share->rows >> 8 * i & 255))
            share->canvas[share->at[i] + below] = joint->parts[i * LANES + lane];
}

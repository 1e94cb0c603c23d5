// From planes onto the canvas: pixels are resized and normalised, a group after the other.
//
// Groups are 48 bytes of a canvas in half precision, which would be written in parts of 16 with
// gaps between them. So a warp puts theirs together first, and each thread then writes parts that
// lie next to its neighbours'.

#ifndef LINES
#define LINES 8 // rows of groups that a thread works on, one below the other
#endif
#define LANES 32           // threads that put their groups together
#define GROUP_PARTS 3      // of 16 bytes, in a group of 16-bit values

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
    uint4 parts[LANES][GROUP_PARTS];
    int at[LANES];   // where the first row goes, in parts of the canvas
    int rows[LANES]; // how many there are
} Joint;

// A thread's groups.
typedef struct {
    Picture picture;
    Group group;
    int y, x, rows;           // where the first one is on the canvas, and how many
    int top, high, wide;      // of the resized image
    int whole;                // whether pixels are those of planes, and in no other order
} Strip;

DEVICE int is_resized(const i64* image) {
    int turned = image[ORIENTATION] >= 5;
    return image[RESIZED_HEIGHT] != image[turned ? WIDTH : HEIGHT] ||
           image[RESIZED_WIDTH] != image[turned ? HEIGHT : WIDTH];
}

DEVICE Strip strip_of(const i64* image, const Canvases* canvases, int index) {
    Strip strip;
    strip.picture = picture_of(image);
    int groups = (canvases->width + GROUP - 1) / GROUP;
    strip.y = index / groups * LINES;
    strip.x = index % groups * GROUP;
    strip.rows = limited(canvases->height - strip.y, LINES);
    strip.top = (int)image[TOP];
    strip.high = (int)image[RESIZED_HEIGHT];
    strip.wide = (int)image[RESIZED_WIDTH];
    strip.whole = !is_resized(image) && strip.picture.orientation == 1 &&
                  (!strip.picture.across || strip.picture.last_column >= NARROW);
    strip.group.column = strip.x - (int)image[LEFT];
    strip.group.near_row = strip.group.far_row = -1;
    UNROLLED
    for (int i = 0; i < GROUP; i++) strip.group.near[i] = strip.group.far[i] = 0;
    return strip;
}

// The levels of a group's row of an image that is resized or turned, pixel after pixel.
DEVICE void read_pixels(const i64* image, int row, int column, u8* bytes) {
    const Picture picture = picture_of(image); // again: not all of it is needed everywhere
    int resized = is_resized(image), wide = (int)image[RESIZED_WIDTH];
    ROLLED
    for (int i = 0; i < GROUP; i++) {
        if (column + i < 0 || column + i >= wide) continue;
        u32 pixel = resized ? resized_pixel(&picture, image, row, column + i)
                            : upright_pixel(&picture, row, column + i);
        for (int j = 0; j < 3; j++) bytes[3 * i + j] = (u8)(pixel >> 8 * j);
    }
}

// Make a thread's row of the canvas, the first one of its strip being 0: in `parts`, or, if groups
// are not joint, in the canvas.
DEVICE void make_row(Strip* strip, const i64* image, const Canvases* canvases, int line,
                     uint4* parts) {
    int y = strip->y + line, row = y - strip->top, column = strip->group.column;
    if (line >= strip->rows) return;
    // Values of 16 bits may take the place of bytes: those that have been read.
    u8* bytes = (u8*)parts + 3 * GROUP;
    int first = least(GROUP, -column), behind = strip->wide - column; // pixels of the image
    int inside = row >= 0 && row < strip->high && first < GROUP && behind > 0;
    int halves = canvases->joint && canvases->type == FLOAT16 && inside && strip->whole;
    if (!inside) behind = 0;
    else if (!strip->whole) read_pixels(image, row, column, bytes);
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
        at = (((i64)image[CANVAS] * canvases->height + y) * canvases->width + strip->x) * 3;
        count = least(GROUP, canvases->width - strip->x);
    }
    ROLLED
    for (int i = 0; i < 3 * count; i++) write_value(out, at + i, canvases->type, bytes[i]);
}

// Say where a thread's groups go.
DEVICE void announce(Joint* joint, const Strip* strip, const Canvases* canvases, int lane) {
    joint->at[lane] = (strip->y * canvases->width + strip->x) / GROUP * GROUP_PARTS;
    joint->rows[lane] = strip->rows;
}

// Write what has been put together. Each thread has every LANES-th part.
DEVICE void write_joint(const Joint* joint, const i64* image, const Canvases* canvases, int line,
                        int lane) {
    int pitch = canvases->width / GROUP * GROUP_PARTS;
    uint4* out = (uint4*)canvases->out + (i64)image[CANVAS] * canvases->height * pitch;
    UNROLLED
    for (int i = 0; i < GROUP_PARTS; i++) {
        int part = i * LANES + lane, from = part / GROUP_PARTS, of = part % GROUP_PARTS;
        if (line < joint->rows[from])
            out[joint->at[from] + line * pitch + of] = joint->parts[from][of];
    }
}

// GROUP pixels side by side of an image that is neither resized nor turned: the same arithmetic as
// for one pixel, but they share samples, and rows share those of the row above.
//
// A register has a sample of blue in its lower half and one of red in its upper half, which are
// filtered at once. In fixed point of 16 bits a level that has 0x6600 added to its upper half is
// there the number 1536 + level in half precision, whose last digit is 1: so nothing has to be
// converted, and a fused multiply-add that saturates is the limit as well.

#define PAD 114
#define GROUP 8
#define LEVEL 0x66000000u // + 65536 * level: how levels are passed on
#define CENTRE 0x8000u    // of a sample of chroma, in 1/256
#define BOTH 0x10001u     // a factor, of both halves

// Bytes of two words: each digit of `which`, the lowest one first, is one's number.
DEVICE u32 chosen(u32 low, u32 high, u32 which) {
#ifdef __CUDACC__
    return __byte_perm(low, high, which);
#else
    const u64 bytes = (u64)high << 32 | low;
    u32 all = 0;
    for (int i = 0; i < 4; i++) all |= (u32)(bytes >> (which >> 4 * i & 7) * 8 & 255) << 8 * i;
    return all;
#endif
}

// Eight bytes of a row from any place on, of which those from 0 to `last` are defined.
DEVICE u64 window(const u8* row, int from, int last) {
    const u64* words = (const u64*)row;
    int first = from >> 3, second = least(from + 7, last) >> 3, shift = (from & 7) * 8;
    u64 low = words[first < 0 ? 0 : first], high = low;
    if (second > first && second >= 0) high = words[second];
    return low >> shift | high << 1 << (63 - shift);
}

// A group on its way down the image, with two rows of chroma, or as many as have been there.
typedef struct {
    int column; // of the image, the first one
    int rows[2];
    u32 samples[2][GROUP];
} Group;

// The samples of a row of chroma that a group is made of. Where chroma is halved across, these are
// GROUP / 2 + 2 from the one on that lies before the first pixel, if that is an even one.
DEVICE void bring_chroma(const Picture* picture, int column, int row, u32* samples) {
    if (picture->gray) {
        UNROLLED
        for (int i = 0; i < GROUP; i++) samples[i] = 128 * BOTH;
        return;
    }
    int from = picture->across ? (column >> 1) - !(column & 1) : column;
    int last = picture->last_column;
    u64 blue = window(picture->blue + row * picture->chroma_pitch, from, last);
    u64 red = window(picture->red + row * picture->chroma_pitch, from, last);
    UNROLLED
    for (int i = 0; i < GROUP; i += 2) {
        u32 which = i % 4 ? 0x7362 : 0x5140;
        u32 two = chosen((u32)(blue >> i / 4 * 32), (u32)(red >> i / 4 * 32), which);
        samples[i] = chosen(two, 0, 0x4140);
        samples[i + 1] = chosen(two, 0, 0x4342);
    }
    if (from >= 0 && from + GROUP <= last + 1) return;
    // Beyond an edge the last sample is repeated.
    UNROLLED
    for (int i = 0; i < GROUP - 1; i++)
        if (from + i == -1) samples[i] = samples[i + 1];
    UNROLLED
    for (int i = 1; i < GROUP; i++)
        if (from + i == last + 1) samples[i] = samples[i - 1];
}

// Bring the rows of chroma that are not here: often one is, from the row of pixels above.
DEVICE void bring_rows(const Picture* picture, Group* group, int near, int far) {
    UNROLLED
    for (int i = 0; i < 2; i++) {
        int wanted = group->rows[1 - i] == near ? far : near;
        if (group->rows[i] == wanted || (!i && group->rows[0] == near)) continue;
        if (i && !picture->down) continue;
        group->rows[i] = wanted;
        bring_chroma(picture, group->column, wanted, group->samples[i]);
    }
}

// Chroma of each pixel of a row, less its centre: signed, in the upper bytes of both halves.
DEVICE void filter(const Picture* picture, Group* group, int y, u32* chroma) {
    int across = picture->across, down = picture->down, near_row = down ? y >> 1 : y;
    int far_row = down ? limited(near_row + (y & 1) * 2 - 1, picture->last_row) : near_row;
    bring_rows(picture, group, near_row, far_row);
    // Weights are in 1/256 of a sample, and so is what halves are rounded with. Half of red may get
    // 1/256 more, from blue, which is too little to be seen.
    u32 all = across ? 64 : 256, near = down ? all / 4 * 3 : all;
    u32 bias = across ? down ? 32 : 16 : down ? 64 + 64 * (y & 1) : 0;
    bias = (bias + (across ? CENTRE / 4 : CENTRE)) * BOTH;
    u32 first = group->rows[0] == near_row ? near : all - near, second = all - first;
    const u32 *samples = group->samples[0], *others = group->samples[1];
    if (!across) {
        UNROLLED
        for (int i = 0; i < GROUP; i++) chroma[i] = samples[i] * first + others[i] * second + bias;
        return;
    }
    u32 sums[GROUP / 2 + 2];
    UNROLLED
    for (int i = 0; i < GROUP / 2 + 2; i++)
        sums[i] = samples[i] * first + others[i] * second + bias;
    u32 odd = down ? 0u - 16 * BOTH : 64 * BOTH; // what odd pixels have beyond the bias
    if (group->column & 1) {
        UNROLLED
        for (int i = 0; i < GROUP; i += 2) {
            chroma[i] = 3 * sums[i / 2] + sums[i / 2 + 1] + odd;
            chroma[i + 1] = 3 * sums[i / 2 + 1] + sums[i / 2];
        }
    } else {
        UNROLLED
        for (int i = 0; i < GROUP; i += 2) {
            chroma[i] = 3 * sums[i / 2 + 1] + sums[i / 2];
            chroma[i + 1] = 3 * sums[i / 2 + 1] + sums[i / 2 + 2] + odd;
        }
    }
}

DEVICE u32 level_of(u32 value) { return (u32)limited((int)(value - LEVEL) >> 16, 255); }

// Two levels / 255 in half precision, rounded once. 257 / 65536 are the first two digits of 1/255
// in base 256. What the next one, 1 / 2^24, adds is not rounded, and the sum of both products is
// the nearest number for each of 256 levels.
DEVICE u32 halves_of(u32 low, u32 high) {
    u32 both = chosen(low, high, 0x7632);
#ifdef __CUDACC__
    u32 rest, all;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(both) : "r"(both), "r"(0xe600e600u)); // -1536
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(rest) : "r"(both), "r"(0x00010001u)); // 1 / 2^24
    asm("fma.rn.sat.f16x2 %0, %1, %2, %3;" : "=r"(all) : "r"(both), "r"(0x1c041c04u), "r"(rest));
    return all;
#else
    union { u16 bits[2]; _Float16 value[2]; u32 all; } halves;
    halves.all = both;
    for (int i = 0; i < 2; i++) {
        double level = (double)halves.value[i] - 1536;
        double sum = level * (257.0 / 65536) + level / 16777216;
        halves.value[i] = (_Float16)(sum < 0 ? 0 : sum > 1 ? 1 : sum);
    }
    return halves.all;
#endif
}

// Bring a row of pixels, red, green and blue of one after the other: in half precision, or their
// levels as bytes. Those beside the image are undefined.
DEVICE void bring_pixels(const Picture* picture, Group* group, int y, uint4* halves, u8* bytes) {
    u32 chroma[GROUP];
    u64 luma = window(picture->luma + y * picture->luma_pitch, group->column, picture->width - 1);
    filter(picture, group, y, chroma);
    u32 levels[3 * GROUP];
    UNROLLED
    for (int i = 0; i < GROUP; i++) {
        int blue = (signed char)(chroma[i] >> 8), red = (int)chroma[i] >> 24;
        int whole = (int)chosen((u32)(luma >> i / 4 * 32), LEVEL | 32768, 0x7054 | i % 4 << 8);
        levels[3 * i] = (u32)(whole + red * 91881); // JFIF's factors in 1/65536
        levels[3 * i + 1] = (u32)(whole - blue * 22554 - red * 46802);
        levels[3 * i + 2] = (u32)(whole + blue * 116130);
    }
    if (halves) {
        UNROLLED
        for (int i = 0; i < 3 * GROUP; i += 8) {
            uint4 part = {halves_of(levels[i], levels[i + 1]),
                          halves_of(levels[i + 2], levels[i + 3]),
                          halves_of(levels[i + 4], levels[i + 5]),
                          halves_of(levels[i + 6], levels[i + 7])};
            halves[i / 8] = part;
        }
    } else {
        UNROLLED
        for (int i = 0; i < 3 * GROUP; i++) bytes[i] = (u8)level_of(levels[i]);
    }
}

/* The JSON lines of a batch in one call, without the interpreter's lock: see json_lines.py. */

#include <stdint.h>
#include <string.h>

static const uint64_t POWERS[] = {1,           10,           100,           1000,
                                  10000,       100000,       1000000,       10000000,
                                  100000000,   1000000000,   10000000000,   100000000000,
                                  1000000000000, 10000000000000, 100000000000000,
                                  1000000000000000};
#define MOST_DECIMALS 15

static char *put(char *out, const char *text, int64_t size) {
    memcpy(out, text, (size_t)size);
    return out + size;
}

static char *put_digits(char *out, uint64_t value, int at_least) {
    char digits[24];
    int count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value || count < at_least);
    while (count)
        *out++ = digits[--count];
    return out;
}

/* A positive float32, and the decimals that read back to it: those between the middles to both of
   its neighbours. All times four, so that the middles are whole, and times 2^shift. (A middle has
   one binary digit more than the number, so as a decimal it is never the shorter one.) */
struct interval {
    uint64_t below, exact, above;
    int shift;
};

/* Return whether so many decimals are enough, and the closest of them as a whole number. */
static int fits(const struct interval *v, int decimals, uint64_t *digits) {
    uint64_t power = POWERS[decimals];
    unsigned __int128 exact = (unsigned __int128)v->exact * power;
    unsigned __int128 low = (unsigned __int128)v->below * power;
    unsigned __int128 high = (unsigned __int128)v->above * power;
    uint64_t floor = (uint64_t)(exact >> v->shift);
    unsigned __int128 down = (unsigned __int128)floor << v->shift;
    unsigned __int128 up = down + ((unsigned __int128)1 << v->shift);
    int takes_down = down > low;
    int takes_up = up < high;
    if (takes_down && takes_up) {
        unsigned __int128 to_down = exact - down, to_up = up - exact;
        takes_up = to_up < to_down || (to_up == to_down && (floor & 1));
    }
    *digits = floor + (uint64_t)takes_up;
    return takes_down || takes_up;
}

/* Write the shortest decimal that reads back to the same float32, and of these the closest one
   (Steele and White 1990, "How to print floating-point numbers accurately").

   Returns NULL for what it does not write: all but zero and 1e-4 <= |value| < 2^23. There
   neighbours are at most one apart, so the fewest digits are the fewest decimals. */
static char *put_float(char *out, float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    if (bits >> 31)
        *out++ = '-';
    bits &= 0x7fffffff;
    if (!bits)
        return put(out, "0.0", 3);
    if (bits < 0x38d1b717 || bits >= 0x4b000000) /* 1e-4 and 2^23, as their bits are ordered */
        return NULL;
    uint32_t mantissa = (bits & 0x7fffff) | 0x800000;
    uint64_t exact = (uint64_t)mantissa * 4;
    struct interval value = {exact - (mantissa == 0x800000 ? 1 : 2), exact, exact + 2,
                             150 - (int)(bits >> 23) + 2};
    /* Where some decimals are enough, more are: from a guess of seven digits, up or down. */
    float size = number < 0 ? -number : number;
    int decimals = size < 1 ? 7 : size < 10 ? 6 : size < 100 ? 5 : size < 1000 ? 4 : 3;
    uint64_t digits, fewer;
    if (fits(&value, decimals, &digits)) {
        for (; decimals && fits(&value, decimals - 1, &fewer); decimals--)
            digits = fewer;
    } else {
        do
            if (++decimals > MOST_DECIMALS)
                return NULL;
        while (!fits(&value, decimals, &digits));
    }
    uint64_t power = POWERS[decimals];
    out = put_digits(out, digits / power, 1);
    *out++ = '.';
    return put_digits(out, digits % power, decimals ? decimals : 1);
}

/* Return the end of a JSON string, given where it starts. */
static const char *string_end(const char *at) {
    for (at++; *at != '"'; at++)
        if (*at == '\\')
            at++;
    return at + 1;
}

/* Write the lines of images.

   `keys` is a JSON array of their keys, without spaces. `middles` and `tails` are what comes
   between an image's index and its detections and after these, `classes` what comes in a detection
   after its confidence: texts one behind the other, and `*_ends` where each of them ends. `counts`
   says how many rows of `boxes` (x1 y1 x2 y2), `confidence` and `class_id` an image has. There is
   room in `out`: the caller has counted. Returns the bytes written, or -1 where there is a number
   or a class that is not for here. */
int64_t brimful_json_lines(int64_t images, const char *keys, const int64_t *index,
                           const char *middles, const int64_t *middle_ends, const char *tails,
                           const int64_t *tail_ends, const int64_t *counts, const float *boxes,
                           const float *confidence, const int32_t *class_id, const char *classes,
                           const int64_t *class_ends, int64_t known, char *out) {
    char *at = out;
    int64_t middle = 0, tail = 0, row = 0;
    for (int64_t i = 0; i < images; i++) {
        const char *key = keys + 1; /* behind the bracket or the comma */
        keys = string_end(key);
        at = put(at, "{\"image\":", 9);
        at = put(at, key, keys - key);
        at = put(at, ",\"index\":", 9);
        at = put_digits(at, (uint64_t)index[i], 1);
        at = put(at, middles + middle, middle_ends[i] - middle);
        middle = middle_ends[i];
        for (int64_t end = row + counts[i], first = row; row < end; row++) {
            int64_t id = class_id[row];
            if (id < 0 || id >= known)
                return -1;
            at = row == first ? put(at, "{\"bbox\":[", 9) : put(at, ",{\"bbox\":[", 10);
            for (int side = 0; side < 4; side++) {
                if (side)
                    *at++ = ',';
                if (!(at = put_float(at, boxes[4 * row + side])))
                    return -1;
            }
            at = put(at, "],\"confidence\":", 15);
            if (!(at = put_float(at, confidence[row])))
                return -1;
            int64_t begin = id ? class_ends[id - 1] : 0;
            at = put(at, classes + begin, class_ends[id] - begin);
            *at++ = '}';
        }
        at = put(at, tails + tail, tail_ends[i] - tail);
        tail = tail_ends[i];
    }
    return at - out;
}

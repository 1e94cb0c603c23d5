// What a block has of AC on its way to the transform, as the scan has it: pairs of how many zeros
// come first, and a coefficient. Most coefficients are zero. Stored at their places one by one, they
// asked for a sector of memory each, and all others had to be cleared, which disturbed the network
// beside it more than everything else that reading takes (benchmarks/NOTES.md).
//
// Each reader writes one pair behind the other, from where the coefficient that it begins with would
// be if all were stored. So there is always room, and no reader has to know of the others. Where one
// ends within a block, its last pair says so, and the rest is where the next reader began.

#define PAIR_SIZE 10  // bits of a value, without its sign
#define RUN 15        // a pair's bits: the zeros,
#define LAST 16       // whether it is the reader's last one within a block,
#define VALUE_SHIFT 5 // and the value. Of a value of zero, instead of the zeros:
#define ENDS 14       // the block ends
#define ZEROS 15      // sixteen zeros

// What a reader writes. Four pairs are written at once.
typedef struct {
    u16* pairs;
    u32 first, at; // where it began, and where the next one goes
    u32 low, high; // the last four pairs, the last one highest
} Pairs;

DEVICE Pairs pairs_from(const Work* work, u32 first) {
    Pairs pairs = {work->pairs, first, first, 0, 0};
    return pairs;
}

// Write so many of the last pairs, at most three, one by one, if they are this reader's.
DEVICE void write_some(const Pairs* pairs, u32 count) {
    u64 held = (u64)pairs->high << 32 | pairs->low;
    UNROLLED for (u32 i = 1; i < 4; i++)
        if (i <= count && pairs->at >= pairs->first + i)
            pairs->pairs[pairs->at - i] = (u16)(held >> (64 - 16 * i));
}

// The lowest four bits of `run` count.
DEVICE void append(Pairs* pairs, u32 run, int value) {
    u32 pair = (u32)value << VALUE_SHIFT | (run & RUN);
    pairs->low = shifted(pairs->high, pairs->low, 16);
    pairs->high = shifted(pair, pairs->high, 16);
    if (++pairs->at % 4) return;
    if (pairs->at >= pairs->first + 4)
        *(u64*)(pairs->pairs + pairs->at - 4) = (u64)pairs->high << 32 | pairs->low;
    else
        write_some(pairs, 3);
}

// Write what is left.
DEVICE void finish(const Pairs* pairs) { write_some(pairs, pairs->at % 4); }

// A reader has ended with so many coefficients of a block: say where the others are.
DEVICE void hand_on(const Pairs* pairs, const Work* work, u32 block, u32 coefficients) {
    if (coefficients == 1) work->records[block].pairs = 64 * block + 1; // it had DC alone
    else if (coefficients && pairs->at > pairs->first) pairs->pairs[pairs->at - 1] |= LAST;
}

// How far a block's pairs have been read, by eight threads that take some each.
typedef struct {
    u32 at;     // the next pair
    int filled; // coefficients before it: 64 or more behind the block's end
} Way;

#ifndef TAKEN
#define TAKEN 2 // pairs that each of the eight threads takes at a time
#endif
#define BEYOND 128

DEVICE int value_of(u32 pair) { return (i16)pair >> VALUE_SHIFT; }

// For how many coefficients a pair stands.
DEVICE int length_of(u32 pair) {
    int run = (int)(pair & RUN);
    return value_of(pair) || run == ZEROS ? run + 1 : 64;
}

// By how many coefficients a thread's pairs get on. What is behind the reader's last one is beyond
// the block.
DEVICE int length_of_all(const u32* pairs) {
    int length = 0;
    UNROLLED for (int i = 0; i < TAKEN; i++)
        length += length_of(pairs[i]) + (pairs[i] & LAST ? BEYOND : 0);
    return length;
}

// Put a thread's pairs in their places, the first of which is behind so many coefficients. Returns
// how many there are before what another reader has, or 0.
DEVICE int put_pairs(const u32* pairs, int filled, const u8* natural, i16* coefficients) {
    int others = 0;
    UNROLLED for (int i = 0; i < TAKEN; i++) {
        int behind = filled + length_of(pairs[i]);
        if (value_of(pairs[i]) && behind <= 64)
            coefficients[natural[behind - 1]] = (i16)value_of(pairs[i]);
        if (pairs[i] & LAST) {
            if (filled < 64) others = behind;
            behind += BEYOND;
        }
        filled = behind;
    }
    return others;
}

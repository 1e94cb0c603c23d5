// Phases that turn the scan into bits one behind the other, without stuffing and markers.

// A thread's chunk of the scan: whole lines of eight bytes, but for the first and the last thread.
DEVICE void chunk_of(const Block* block, const Work* work, int thread, int* from, int* to) {
    int first = block->scan / 8, lines = work->length / 8 + 1 - first;
    int share = (lines + THREADS - 1) / THREADS;
    int start = (first + thread * share) * 8, stop = start + share * 8;
    *from = start > block->scan ? start : block->scan;
    *to = stop < work->length ? stop : work->length;
}

// Where a line of eight bytes has 0xff: the highest bit of each such byte.
DEVICE u64 markers_of(u64 line) {
    return ((line & 0x7f7f7f7f7f7f7f7full) + 0x0101010101010101ull) & line & 0x8080808080808080ull;
}

DEVICE int bits_set(u64 value) {
#ifdef __CUDACC__
    return __popcll(value);
#else
    return __builtin_popcountll(value);
#endif
}

// Is a byte of the scan data? Of a stuffed one its zero is not. Sets `restart` for the second byte
// of such a marker, `stop` for one that ends the scan.
DEVICE int is_data(int before, int byte, int after, int* restart, int* stop) {
    *restart = *stop = 0;
    if (before == 0xff && byte != 0xff) {
        *restart = byte >= 0xd0 && byte <= 0xd7;
        *stop = byte != 0 && !*restart;
        return 0;
    }
    return byte != 0xff || after == 0;
}

// A thread's way through its chunk, line by line, so that a warp's threads stay together: a line is
// asked for while the one before it is looked at.
typedef struct {
    int at, end;    // bytes of the line that are the thread's
    int before;     // the byte before them
    u64 line, next; // the first byte lowest
} Lines;

DEVICE u64 line_at(const Work* work, int at) {
    return at < work->length ? *(const u64*)(work->raw + at) : 0;
}

DEVICE Lines lines_from(const Block* block, const Work* work, int from, int to) {
    int start = from / 8 * 8, begun = from > block->scan && from < to;
    Lines lines = {from, least(start + 8, to), begun ? work->raw[from - 1] : 0, 0, 0};
    if (from < to) {
        lines.line = line_at(work, start);
        lines.next = line_at(work, start + 8);
    }
    return lines;
}

DEVICE void next_line(Lines* lines, const Work* work, int to) {
    lines->at = lines->end;
    lines->end = least(lines->end + 8, to);
    lines->line = lines->next;
    if (lines->at < to) lines->next = line_at(work, lines->at + 8);
}

DEVICE int byte_of(const Lines* lines, int at) { return (int)(lines->line >> at % 8 * 8 & 0xff); }

DEVICE int byte_after(const Lines* lines, const Work* work, int at) {
    if (at + 1 >= work->length) return 0xff;
    return at % 8 == 7 ? (int)(lines->next & 0xff) : byte_of(lines, at + 1);
}

// Is the line all data and stuffing, as nearly all lines are? Then `stuffed` gets the highest bit of
// each zero behind 0xff. What else there may be goes byte by byte.
DEVICE int is_plain(const Lines* lines, const Work* work, u64* stuffed) {
    u64 line = lines->line, marked = markers_of(line);
    *stuffed = marked << 8 | (lines->before == 0xff ? 0x80 : 0);
    u64 behind = (*stuffed << 1) - (*stuffed >> 7); // the whole bytes
    u64 cut = lines->end < work->length ? lines->next & 0xff : 1; // what the last byte is before
    return lines->end - lines->at == 8 && !(line & behind) && !((marked >> 63) && cut);
}

// Count data and markers in a thread's chunk. Returns where the scan ends, if it does there.
DEVICE int count_data(Block* block, const Work* work, int thread) {
    int from, to, kept = 0, restarts = 0, stops = work->length;
    chunk_of(block, work, thread, &from, &to);
    Lines lines = lines_from(block, work, from, to);
    for (; lines.at < to && stops == work->length; next_line(&lines, work, to)) {
        u64 stuffed;
        if (is_plain(&lines, work, &stuffed)) {
            kept += 8 - bits_set(stuffed);
            lines.before = (int)(lines.line >> 56);
            continue;
        }
        for (int at = lines.at; at < lines.end && stops == work->length; at++) {
            int restart, stop, byte = byte_of(&lines, at);
            kept += is_data(lines.before, byte, byte_after(&lines, work, at), &restart, &stop);
            restarts += restart;
            if (stop) stops = at;
            lines.before = byte;
        }
    }
    block->chunks.kept[thread] = kept;
    block->chunks.restarts[thread] = restarts;
    return stops;
}

// Turn counts into sums of what is before, in two levels: first within groups...
DEVICE void sum_chunks(Block* block, const Work* work, int thread) {
    if (thread >= GROUPS) return;
    int kept = 0, restarts = 0;
    for (int i = thread * THREADS / GROUPS; i < (thread + 1) * THREADS / GROUPS; i++) {
        int from, to;
        chunk_of(block, work, i, &from, &to);
        int within = from < block->stop && from < to;
        int here = within ? block->chunks.kept[i] : 0;
        int markers = within ? block->chunks.restarts[i] : 0;
        block->chunks.kept[i] = kept;
        block->chunks.restarts[i] = restarts;
        kept += here;
        restarts += markers;
    }
    block->kept_groups[thread] = kept;
    block->restart_groups[thread] = restarts;
}

// ...then of groups, and lay out what follows. One thread does it.
DEVICE void lay_out(Block* block, const Work* work) {
    int kept = 0, restarts = 0;
    for (int i = 0; i < GROUPS; i++) {
        int here = block->kept_groups[i], markers = block->restart_groups[i];
        block->kept_groups[i] = kept;
        block->restart_groups[i] = restarts;
        kept += here;
        restarts += markers;
    }
    block->bytes = kept;
    block->segments = restarts + 1;
    // The bits, padding for readers that look ahead, and where intervals begin.
    i64 needed = (i64)rounded_up(kept + PADDING, 16) + 4 * ((i64)restarts + 2);
    if (needed > work->room) block->status = UNSUPPORTED;
    if (restarts && !block->interval) block->status = DAMAGED;
    u32 share = (u32)((i64)kept * 8 + THREADS - 1) / THREADS;
    block->share = share < SHARE_BITS ? SHARE_BITS : share;
    block->readers = (int)(((i64)kept * 8 + block->share - 1) / block->share);
    if (!block->readers) block->status = DAMAGED;
    // libjpeg goes on to the image's end when it has all the pixels, and refuses most of what may
    // come before it.
    if (block->stop >= work->length || work->raw[block->stop] != 0xd9) block->status = DAMAGED;
}

DEVICE u32* starts_of(const Block* block, const Work* work) {
    return (u32*)(work->bits + rounded_up(block->bytes + PADDING, 16));
}

// Bytes on their way into words.
typedef struct {
    u8* bits;
    int at;      // where the word belongs that is being filled
    u32 held;    // what is in it, the first byte lowest
    int count;   // bytes in it
    int skipped; // of them, those of the thread before
} Bytes;

// Write the word, or what is there of it.
DEVICE void put(Bytes* bytes, u32 word, int count) {
    if (count == 4 && !bytes->skipped) {
        *(u32*)(bytes->bits + bytes->at) = word;
    } else {
        for (int i = bytes->skipped; i < count; i++)
            bytes->bits[bytes->at + i] = (u8)(word >> (8 * i));
    }
    bytes->at += 4;
    bytes->skipped = 0;
}

// Add a line of so many bytes, at least four. Behind them it has zeros.
DEVICE void add_line(Bytes* bytes, u64 line, int count) {
    u32 low = (u32)line, high = (u32)(line >> 32), by = (u32)(8 * bytes->count);
    u32 second = shifted(high, low, by);
    put(bytes, bytes->held | low << by, 4);
    bytes->count += count - 4;
    bytes->held = second;
    if (bytes->count >= 4) {
        put(bytes, second, 4);
        bytes->count -= 4;
        bytes->held = shifted(0, high, by);
    }
}

DEVICE void add_byte(Bytes* bytes, int byte) {
    bytes->held |= (u32)byte << (8 * bytes->count);
    if (++bytes->count < 4) return;
    put(bytes, bytes->held, 4);
    bytes->held = 0;
    bytes->count = 0;
}

// Copy the data of a thread's chunk to where it belongs.
DEVICE void gather(Block* block, const Work* work, int thread) {
    int from, to, group = thread / (THREADS / GROUPS);
    int kept = block->kept_groups[group] + block->chunks.kept[thread];
    int restarts = block->restart_groups[group] + block->chunks.restarts[thread];
    chunk_of(block, work, thread, &from, &to);
    to = least(to, block->stop);
    u8* bits = work->bits;
    u32* starts = starts_of(block, work);
    Bytes bytes = {bits, kept / 4 * 4, 0, kept % 4, kept % 4};
    Lines lines = lines_from(block, work, from, to);
    for (; lines.at < to; next_line(&lines, work, to)) {
        u64 stuffed, line = lines.line;
        if (is_plain(&lines, work, &stuffed)) {
            int count = 8 - bits_set(stuffed);
            lines.before = (int)(line >> 56);
            while (stuffed) { // what is behind the first of them comes a byte nearer
                u64 first = stuffed & (0 - stuffed), before = (first >> 7) - 1;
                line = (line & before) | (line >> 8 & ~before);
                stuffed = (stuffed ^ first) >> 8;
            }
            add_line(&bytes, line, count);
            continue;
        }
        for (int at = lines.at; at < lines.end; at++) {
            int restart, stop, byte = byte_of(&lines, at);
            int data = is_data(lines.before, byte, byte_after(&lines, work, at), &restart, &stop);
            if (data) add_byte(&bytes, byte);
            if (restart) {
                if ((byte & 7) != (restarts & 7)) block->status = DAMAGED; // one is missing
                starts[++restarts] = (u32)(bytes.at + bytes.count);
            }
            lines.before = byte;
        }
    }
    put(&bytes, bytes.held, bytes.count);
    if (thread == 0) {
        starts[0] = 0;
        starts[block->segments] = (u32)block->bytes;
        for (int i = 0; i < PADDING; i++) bits[block->bytes + i] = 0xff;
    }
}

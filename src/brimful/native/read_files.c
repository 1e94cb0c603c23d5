/* Read many small files in two calls, without the interpreter's lock: see read_files.py. */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A table has `count` descriptors, then as many sizes, places (addresses) and starts. */

/* Open files, whose names follow each other, each with its zero byte. A size of -1 stands for
   whatever is no ordinary, readable file of 1 to `largest` bytes: its descriptor is -1. */
void brimful_open(const char *name, int64_t count, int64_t largest, int64_t *table) {
    int64_t *descriptors = table, *sizes = table + count;
    for (int64_t i = 0; i < count; i++, name += strlen(name) + 1) {
        struct stat status;
        sizes[i] = -1;
        /* Without O_NONBLOCK, opening a named pipe would wait for a writer for ever. */
        int descriptor = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        descriptors[i] = descriptor;
        if (descriptor < 0)
            continue;
        if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) &&
            status.st_size > 0 && status.st_size <= largest) {
            sizes[i] = status.st_size;
            /* All files are on their way from the disk before the first one is waited for. */
            posix_fadvise(descriptor, 0, 0, POSIX_FADV_WILLNEED);
        } else {
            close(descriptor);
            descriptors[i] = -1;
        }
    }
}

/* Which of some starts a file begins with, if it ends as a JPEG does; -1 for none. */
static int64_t start_of(const char *file, int64_t size, const char *starts,
                        const int64_t *start_ends, int64_t known) {
    if (size < 2 || memcmp(file + size - 2, "\xff\xd9", 2))
        return -1;
    for (int64_t i = 0, begin = 0; i < known; begin = start_ends[i++]) {
        int64_t length = start_ends[i] - begin;
        if (length <= size && !memcmp(file, starts + begin, (size_t)length))
            return i;
    }
    return -1;
}

/* Read what was opened to its place and close it; 0 only closes. A size becomes -1 where not all
   came. A start is which of the `known` ones, one behind the other, the file begins with. */
void brimful_read(int64_t count, int64_t *table, const char *starts, const int64_t *start_ends,
                  int64_t known) {
    int64_t *descriptors = table, *sizes = table + count;
    int64_t *places = table + 2 * count, *found = table + 3 * count;
    for (int64_t i = 0; i < count; i++) {
        char *place = (char *)(intptr_t)places[i];
        int descriptor = (int)descriptors[i];
        int64_t got = 0;
        found[i] = -1;
        if (descriptor < 0)
            continue;
        while (place && got < sizes[i]) {
            ssize_t more = read(descriptor, place + got, (size_t)(sizes[i] - got));
            if (more < 0 && errno == EINTR)
                continue;
            if (more <= 0)
                break;
            got += more;
        }
        if (got < sizes[i])
            sizes[i] = -1;
        else
            found[i] = start_of(place, got, starts, start_ends, known);
        close(descriptor);
        descriptors[i] = -1;
    }
}

/* Read many small files in two calls, without the interpreter's lock: see read_files.py. */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

/* Open files. A size of -1 stands for whatever is no ordinary, readable file of 1 to `largest`
   bytes: its descriptor is -1. */
void brimful_open(const char *const *paths, int64_t count, int64_t largest, int32_t *descriptors,
                  int64_t *sizes) {
    for (int64_t i = 0; i < count; i++) {
        struct stat status;
        sizes[i] = -1;
        /* Without O_NONBLOCK, opening a named pipe would wait for a writer for ever. */
        descriptors[i] = open(paths[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (descriptors[i] < 0)
            continue;
        if (fstat(descriptors[i], &status) == 0 && S_ISREG(status.st_mode) &&
            status.st_size > 0 && status.st_size <= largest) {
            sizes[i] = status.st_size;
            /* All files are on their way from the disk before the first one is waited for. */
            posix_fadvise(descriptors[i], 0, 0, POSIX_FADV_WILLNEED);
        } else {
            close(descriptors[i]);
            descriptors[i] = -1;
        }
    }
}

/* Read what was opened to `places` and close it; NULL only closes. A size becomes -1 where not all
   came. */
void brimful_read(int64_t count, int32_t *descriptors, int64_t *sizes, char *const *places) {
    for (int64_t i = 0; i < count; i++) {
        int64_t got = 0;
        if (descriptors[i] < 0)
            continue;
        while (places[i] && got < sizes[i]) {
            ssize_t more = read(descriptors[i], places[i] + got, (size_t)(sizes[i] - got));
            if (more < 0 && errno == EINTR)
                continue;
            if (more <= 0)
                break;
            got += more;
        }
        if (got < sizes[i])
            sizes[i] = -1;
        close(descriptors[i]);
        descriptors[i] = -1;
    }
}

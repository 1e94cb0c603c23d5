/* Copy the planes of many frames in one call, without the interpreter's lock: see copy_planes.py. */

#include <stdint.h>
#include <string.h>

/* Each plane is six numbers: its address and the bytes from row to row, those of where it goes, its
   rows, and the bytes of a row that count. */
void brimful_copy_planes(int64_t count, const int64_t (*planes)[6]) {
    for (int64_t i = 0; i < count; i++) {
        const char *source = (const char *)planes[i][0];
        char *target = (char *)planes[i][2];
        int64_t from = planes[i][1], to = planes[i][3], rows = planes[i][4], size = planes[i][5];
        if (from == to && rows > 0) {
            size += (rows - 1) * from; /* what lies between the rows comes along */
            rows = 1;
        }
        for (int64_t y = 0; y < rows; y++)
            memcpy(target + y * to, source + y * from, (size_t)size);
    }
}

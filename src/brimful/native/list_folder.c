/* List a folder in one call, without the interpreter's lock: see list_folder.py. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What a name can be; NEITHER is left out. DOUBTFUL ends in more than ASCII. */
enum { FILES, DOUBTFUL, DIRECTORIES, KINDS, NEITHER = KINDS };

/* Names one behind the other, each with its zero byte. */
struct names {
    char *text;
    int64_t size, room;
};

static int add(struct names *names, const char *name) {
    int64_t size = (int64_t)strlen(name) + 1;
    if (names->size + size > names->room) {
        int64_t room = 2 * (names->size + size) + 4096;
        char *text = realloc(names->text, (size_t)room);
        if (!text)
            return ENOMEM;
        names->text = text;
        names->room = room;
    }
    memcpy(names->text + names->size, name, (size_t)size);
    names->size += size;
    return 0;
}

static int is_directory(DIR *folder, const struct dirent *entry) {
    struct stat status;
    if (entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_DIR;
    /* A link that cannot be followed is a file; reading it will say so. */
    return fstatat(dirfd(folder), entry->d_name, &status, 0) == 0 && S_ISDIR(status.st_mode);
}

/* Look for a name's suffix, in any case, among some; a suffix is its bytes as one number.
   Of a longer one its dot falls off, and no known one is without. */
static int kind_of(const char *name, const uint64_t *suffixes, int64_t known) {
    const char *dot = strrchr(name, '.');
    uint64_t suffix = 0;
    if (!dot || dot == name)
        return NEITHER;
    for (const char *end = dot; *end; end++) {
        unsigned char byte = (unsigned char)*end;
        if (byte > 127)
            return DOUBTFUL;
        suffix = suffix << 8 | (byte >= 'A' && byte <= 'Z' ? byte + 32u : byte);
    }
    for (int64_t i = 0; i < known; i++)
        if (suffixes[i] == suffix)
            return FILES;
    return NEITHER;
}

/* List a folder, without `.` and `..`, into the names of each kind, which brimful_free_names frees
   in any case. Returns 0 or what is wrong, as errno says it. */
int brimful_list_folder(const char *path, const uint64_t *suffixes, int64_t known,
                        struct names *names) {
    int failed = 0;
    DIR *folder = opendir(path);
    if (!folder)
        return errno;
    while (!failed) {
        errno = 0;
        struct dirent *entry = readdir(folder);
        if (!entry) {
            failed = errno;
            break;
        }
        const char *name = entry->d_name;
        if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])))
            continue;
        int kind = is_directory(folder, entry) ? DIRECTORIES : kind_of(name, suffixes, known);
        if (kind != NEITHER)
            failed = add(names + kind, name);
    }
    closedir(folder);
    return failed;
}

void brimful_free_names(struct names *names) {
    for (int kind = 0; kind < KINDS; kind++)
        free(names[kind].text);
}

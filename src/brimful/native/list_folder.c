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
    int64_t size, room, count;
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
    names->count++;
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

/* A name, and eight bytes of it as one number. */
struct item {
    uint64_t key;
    const char *name;
};

/* Sort names whose first bytes, `depth` of them, are the same, by the eight that follow: byte by
   byte from the last one, in spare memory; then those that are still the same by the next eight. */
static void sort(struct item *items, struct item *spare, int64_t count, int64_t depth) {
    if (count < 32) {
        for (int64_t i = 1, at; i < count; i++) {
            struct item item = items[i];
            for (at = i; at && strcmp(items[at - 1].name + depth, item.name + depth) > 0; at--)
                items[at] = items[at - 1];
            items[at] = item;
        }
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        const unsigned char *byte = (const unsigned char *)items[i].name + depth;
        uint64_t key = 0;
        for (int j = 0; j < 8; j++, byte += *byte != 0) /* the zero byte ends it */
            key = key << 8 | *byte;
        items[i].key = key;
    }
    for (int shift = 0; shift < 64; shift += 8) {
        int64_t places[256] = {0}, place = 0;
        for (int64_t i = 0; i < count; i++)
            places[items[i].key >> shift & 255]++;
        if (places[items[0].key >> shift & 255] == count)
            continue;
        for (int byte = 0; byte < 256; byte++) {
            int64_t same = places[byte];
            places[byte] = place;
            place += same;
        }
        for (int64_t i = 0; i < count; i++)
            spare[places[items[i].key >> shift & 255]++] = items[i];
        memcpy(items, spare, (size_t)count * sizeof *items);
    }
    for (int64_t start = 0, end; start < count; start = end) {
        for (end = start + 1; end < count && items[end].key == items[start].key; end++)
            ;
        if (items[start].key & 255)
            sort(items + start, spare, end - start, depth + 8);
    }
}

/* Whether names are in order or in the opposite one, which leaves Python little to do. */
static int in_order(const struct names *names) {
    const char *name = names->text, *next;
    int rises = 0, falls = 0;
    for (int64_t i = 1; i < names->count && !(rises && falls); i++, name = next) {
        next = name + strlen(name) + 1;
        *(strcmp(name, next) < 0 ? &rises : &falls) = 1;
    }
    return !(rises && falls);
}

/* Bring names into the order of their bytes. Without memory for it they stay as they are. */
static void sort_names(struct names *names) {
    struct item *items = malloc(2 * (size_t)names->count * sizeof *items);
    char *sorted = malloc((size_t)names->size), *next = names->text;
    if (items && sorted) {
        for (int64_t i = 0; i < names->count; i++, next += strlen(next) + 1)
            items[i].name = next;
        sort(items, items + names->count, names->count, 0);
        next = sorted;
        for (int64_t i = 0; i < names->count; i++)
            next = stpcpy(next, items[i].name) + 1;
        memcpy(names->text, sorted, (size_t)names->size);
    }
    free(items);
    free(sorted);
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
    if (!failed && !in_order(names + FILES))
        sort_names(names + FILES);
    return failed;
}

void brimful_free_names(struct names *names) {
    for (int kind = 0; kind < KINDS; kind++)
        free(names[kind].text);
}

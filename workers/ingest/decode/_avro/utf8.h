/* Is this UTF-8? As Python's strict decoder decides: no overlong forms, no surrogates (RFC 3629). */
#ifndef INGEST_UTF8_H
#define INGEST_UTF8_H

#include <stdint.h>
#include <string.h>

/* Bytes of the character at p (at most `left` are there); 0 where it is not valid. */
static inline uint64_t avro_utf8_character(const uint8_t *p, uint64_t left) {
    uint8_t first = p[0];
    uint64_t size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first < 0xc2 || first > 0xf4 || left < size) return 0;
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high) return 0;
    for (uint64_t i = 2; i < size; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return size;
}

static inline int avro_utf8_is_valid(const uint8_t *p, uint64_t size) {
    uint64_t i = 0;
    while (i < size) {
        uint64_t word;
        if (size - i >= sizeof word) {
            memcpy(&word, p + i, sizeof word);
            if ((word & UINT64_C(0x8080808080808080)) == 0) { /* eight ASCII characters */
                i += sizeof word;
                continue;
            }
        }
        if (p[i] < 0x80) {
            i++;
            continue;
        }
        uint64_t step = avro_utf8_character(p + i, size - i);
        if (step == 0) return 0;
        i += step;
    }
    return 1;
}

#endif

/* Runs decode plans over damaged bodies, under AddressSanitizer and UBSan: any read or write outside
 * a body, a plan or a row ends the program. Reads cases from standard input, as the test writes them:
 *
 *     uint32 ops bytes, pool bytes, template bytes, bodies; then these bytes;
 *     per body: uint32 size, its bytes
 *
 * Every body is tried as it is, cut at every length, and with `rounds` random damages. Each body and
 * each row lies in an allocation of exactly its size. Prints how many were decoded, and were not. */
#include <stdio.h>
#include <stdlib.h>

#include "decode.h"

static uint64_t rng_state = UINT64_C(0x9e3779b97f4a7c15);
static uint64_t counts[2];

static uint64_t draw(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static void *take(size_t size) {
    uint8_t *bytes = malloc(size + (size == 0));
    if (bytes == NULL || fread(bytes, 1, size, stdin) != size) exit(2);
    return bytes;
}

static int number(uint32_t *out) { return fread(out, sizeof *out, 1, stdin) == 1; }

static void try_one(const avro_plan *plan, const uint8_t *body, size_t size) {
    uint8_t *copy = malloc(size + (size == 0)), *row = malloc(plan->row_size);
    if (copy == NULL || row == NULL) exit(2);
    memcpy(copy, body, size);
    counts[avro_decode(plan, copy, size, row) == AVRO_OK]++;
    free(copy);
    free(row);
}

static void try_all(const avro_plan *plan, const uint8_t *body, size_t size, long rounds) {
    for (size_t cut = 0; cut <= size; cut++) try_one(plan, body, cut);
    uint8_t *damaged = malloc(size + 16);
    if (damaged == NULL) exit(2);
    for (long i = 0; i < rounds; i++) {
        size_t length = size + draw() % 16;
        memset(damaged, 0xff, size + 16);
        memcpy(damaged, body, size);
        for (uint64_t n = draw() % 4 + 1; n > 0 && length > 0; n--)
            damaged[draw() % length] = (uint8_t)draw();
        try_one(plan, damaged, length);
    }
    free(damaged);
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
    uint32_t ops, pool, template, bodies;
    while (number(&ops) && number(&pool) && number(&template) && number(&bodies)) {
        void *memory[3] = {take(ops), take(pool), take(template)};
        avro_plan plan = {memory[0], memory[1], memory[2], ops / (uint32_t)sizeof(avro_op),
                          pool,      template};
        if (!avro_plan_is_sound(&plan)) exit(3);
        for (uint32_t i = 0; i < bodies; i++) {
            uint32_t size;
            if (!number(&size)) exit(2);
            uint8_t *body = take(size);
            try_all(&plan, body, size, rounds);
            free(body);
        }
        for (int i = 0; i < 3; i++) free(memory[i]);
    }
    printf("%llu %llu\n", (unsigned long long)counts[1], (unsigned long long)counts[0]);
    return 0;
}

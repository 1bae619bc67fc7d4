/**
 * The first words of the SHA-256 of many short messages, eight side by side, for x86-64 with AVX2; compiled at start by
 * the TinyCC inside Bun.
 *
 * The height of a key is how many bits at the beginning of its SHA-256 are zero, so the first word says it, but for one
 * key in 2^32. Keys are so short that padding and length fit into the one block of 64 bytes with them. Then nothing
 * depends on what came before, and eight keys are hashed by the instructions that one takes: each register holds the
 * same word of eight messages, its lanes.
 *
 * TinyCC has no vectors and does not optimise, so the hash is assembler, and C only says which messages go together.
 * Nothing here is secret. The memory is for one call at a time, of one thread.
 *
 * Sources: FIPS 180-4, 4.1.2, 4.2.2, 5.1.1, 5.3.3 and 6.2; Intel's manual for the encodings.
 */

#include "../compiled/assembler.h"

/* --- instructions of AVX2, by the numbers of their registers ---------------------------------------------------- */

/** with the prefix of three bytes, which holds most numbers inverted; `prefix` is 1 for 0x66 and 2 for 0xf3 */
#define VEX(map, prefix, opcode, to, with, form, from) \
  ".byte 0xc4, " TEXT(0xe0 ^ map ^ (to & 8) << 4 ^ (from & 8) << 2) ", " TEXT(0x7c ^ prefix ^ with << 3) ", " \
  #opcode ", " TEXT(form ^ (to & 7) << 3 ^ (from & 7)) "\n"
/** an instruction on registers, and on the memory at that offset of `base`, which is none of rsp and r8…r15 */
#define REGISTERS(map, prefix, opcode, to, with, from) VEX(map, prefix, opcode, to, with, 0xc0, from)
#define MEMORY(map, prefix, opcode, to, with, offset, base) \
  VEX(map, prefix, opcode, to, with, 0x80, NUMBER(base)) ".long " #offset "\n"

#define LOAD_LANES(offset, base, to) MEMORY(1, 2, 0x6f, to, 0, offset, base)
#define STORE_LANES(from, offset, base) MEMORY(1, 2, 0x7f, from, 0, offset, base)
#define MOVE(from, to) REGISTERS(1, 2, 0x6f, to, 0, from)
/** every lane of `to` = the word there */
#define LOAD_FOR_ALL(offset, base, to) MEMORY(2, 1, 0x58, to, 0, offset, base)

/* to = from op with */
#define PLUS(from, with, to) REGISTERS(1, 1, 0xfe, to, with, from)
#define XOR(from, with, to) REGISTERS(1, 1, 0xef, to, with, from)
#define AND(from, with, to) REGISTERS(1, 1, 0xdb, to, with, from)
#define PLUS_AT(offset, base, with, to) MEMORY(1, 1, 0xfe, to, with, offset, base)
#define AND_AT(offset, base, with, to) MEMORY(1, 1, 0xdb, to, with, offset, base)
#define OR_AT(offset, base, with, to) MEMORY(1, 1, 0xeb, to, with, offset, base)
#define RIGHT(bits, from, to) REGISTERS(1, 1, 0x72, 2, to, from) ".byte " #bits "\n"
#define LEFT(bits, from, to) REGISTERS(1, 1, 0x72, 6, to, from) ".byte " #bits "\n"
/** the bytes of `with`, in each half by themselves, in the order that `from` says */
#define ORDER_BYTES(from, with, to) REGISTERS(2, 1, 0x00, to, with, from)
/** lanes of `with` and `from` in turn, or two and two in turn: of the lower or the upper ones in each half */
#define LOWER(from, with, to) REGISTERS(1, 1, 0x62, to, with, from)
#define UPPER(from, with, to) REGISTERS(1, 1, 0x6a, to, with, from)
#define LOWER_PAIRS(from, with, to) REGISTERS(1, 1, 0x6c, to, with, from)
#define UPPER_PAIRS(from, with, to) REGISTERS(1, 1, 0x6d, to, with, from)
/** the lower halves (0x20) or the upper ones (0x31) of `with` and `from` */
#define HALVES(which, from, with, to) REGISTERS(3, 1, 0x46, to, with, from) ".byte " #which "\n"
/** or every instruction of SSE after this would be slow */
#define LEAVE_LANES ".byte 0xc5, 0xf8, 0x77\n"

/* --- the hash --------------------------------------------------------------------------------------------------- */

#define LANES 8
#define BLOCK_BYTES 64
/** After the message come one bit, and its length in eight bytes. */
#define MOST_BYTES (BLOCK_BYTES - 9)

unsigned round_constants[64] = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
unsigned initial_hash[8] = {
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/**
 * Of a message of n bytes, the 64 bytes from 64 − n on are what to keep of a block that begins with it, and those from
 * 192 − n on the bit that comes after it.
 */
unsigned char padding[256] = {[0 ... 63] = 0xff, [192] = 0x80};
/** Words have their highest byte first. */
unsigned char byte_order[32] = {
  3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12};

/** The padded block of each lane, and the message schedule: each word of all lanes. */
unsigned blocks[LANES][16];
unsigned schedule[64][LANES];

/** sum ⊕= `from` rotated right by that many bits, which is left by 32 less; or the sum begins with it. Uses `spare`. */
#define ROTATE(right, left, from, sum, spare) \
  RIGHT(right, from, spare) XOR(spare, sum, sum) LEFT(left, from, spare) XOR(spare, sum, sum)
#define ROTATE_FIRST(right, left, from, sum, spare) \
  RIGHT(right, from, sum) LEFT(left, from, spare) XOR(spare, sum, sum)

/** rows 0…7 at rcx, a block apart, to columns at rdi */
#define TRANSPOSE \
  LOAD_LANES(0, rcx, 0) LOAD_LANES(64, rcx, 1) LOAD_LANES(128, rcx, 2) LOAD_LANES(192, rcx, 3) \
  LOAD_LANES(256, rcx, 4) LOAD_LANES(320, rcx, 5) LOAD_LANES(384, rcx, 6) LOAD_LANES(448, rcx, 7) \
  LOWER(1, 0, 8) UPPER(1, 0, 9) LOWER(3, 2, 10) UPPER(3, 2, 11) \
  LOWER(5, 4, 12) UPPER(5, 4, 13) LOWER(7, 6, 14) UPPER(7, 6, 15) \
  LOWER_PAIRS(10, 8, 0) UPPER_PAIRS(10, 8, 1) LOWER_PAIRS(11, 9, 2) UPPER_PAIRS(11, 9, 3) \
  LOWER_PAIRS(14, 12, 4) UPPER_PAIRS(14, 12, 5) LOWER_PAIRS(15, 13, 6) UPPER_PAIRS(15, 13, 7) \
  HALVES(0x20, 4, 0, 8) HALVES(0x20, 5, 1, 9) HALVES(0x20, 6, 2, 10) HALVES(0x20, 7, 3, 11) \
  HALVES(0x31, 4, 0, 12) HALVES(0x31, 5, 1, 13) HALVES(0x31, 6, 2, 14) HALVES(0x31, 7, 3, 15) \
  STORE_LANES(8, 0, rdi) STORE_LANES(9, 32, rdi) STORE_LANES(10, 64, rdi) STORE_LANES(11, 96, rdi) \
  STORE_LANES(12, 128, rdi) STORE_LANES(13, 160, rdi) STORE_LANES(14, 192, rdi) STORE_LANES(15, 224, rdi)

/**
 * One round, after which the letters have moved on by one: what was d is e, and what was h is a. `ab` gets a ⊕ b, which
 * is b ⊕ c to the next round: Maj(a, b, c) is b ⊕ ((a ⊕ b) ∧ (b ⊕ c)), and Ch(e, f, g) is g ⊕ (e ∧ (f ⊕ g)). Uses 8…12.
 */
#define ROUND(at, a, b, c, d, e, f, g, h, ab, bc) \
  LOAD_FOR_ALL(4 * at, rsi, 8) PLUS_AT(32 * at, rdi, 8, 8) PLUS(8, h, h) \
  ROTATE_FIRST(6, 26, e, 8, 9) ROTATE(11, 21, e, 8, 9) ROTATE(25, 7, e, 8, 9) PLUS(8, h, h) \
  XOR(f, g, 10) AND(e, 10, 10) XOR(g, 10, 10) PLUS(10, h, h) \
  PLUS(h, d, d) \
  ROTATE_FIRST(2, 30, a, 11, 9) ROTATE(13, 19, a, 11, 9) ROTATE(22, 10, a, 11, 9) PLUS(11, h, h) \
  XOR(a, b, ab) AND(ab, bc, 12) XOR(b, 12, 12) PLUS(12, h, h)

/** Of eight messages of those lengths in bytes, at most MOST_BYTES. Reads the BLOCK_BYTES from each message on. */
void hash_lanes(unsigned char **messages, unsigned *lengths, unsigned *first_words);
asm(FUNCTION(hash_lanes)
  "movq %rdi, %r8\n"
  "movq %rsi, %r9\n"
  "movq %rdx, %r10\n"
  "leaq byte_order(%rip), %rcx\n"
  LOAD_LANES(0, rcx, 2)
  "leaq padding(%rip), %rsi\n"
  "leaq blocks(%rip), %rax\n"
  "xorl %r11d, %r11d\n"
  "1:\n"
  "movq (%r8, %r11, 8), %rcx\n"
  "movl (%r9, %r11, 4), %edi\n"
  "movq %rsi, %rdx\n"
  "subq %rdi, %rdx\n"
  LOAD_LANES(0, rcx, 0)
  LOAD_LANES(32, rcx, 1)
  AND_AT(64, rdx, 0, 0)
  AND_AT(96, rdx, 1, 1)
  OR_AT(192, rdx, 0, 0)
  OR_AT(224, rdx, 1, 1)
  ORDER_BYTES(2, 0, 0)
  ORDER_BYTES(2, 1, 1)
  STORE_LANES(0, 0, rax)
  STORE_LANES(1, 32, rax)
  "addq $64, %rax\n"
  "incl %r11d\n"
  "cmpl $8, %r11d\n"
  "jne 1b\n"

  "leaq blocks(%rip), %rcx\n"
  "leaq schedule(%rip), %rdi\n"
  "movl $2, %eax\n"
  "2:\n"
  TRANSPOSE
  "addq $32, %rcx\n"
  "addq $256, %rdi\n"
  "decl %eax\n"
  "jnz 2b\n"
  /* The last word is the length in bits. */
  "movq %r9, %rcx\n"
  LOAD_LANES(0, rcx, 0)
  LEFT(3, 0, 0)
  STORE_LANES(0, -32, rdi)

  "subq $512, %rdi\n"
  "movl $48, %eax\n"
  "3:\n"
  LOAD_LANES(32, rdi, 0)
  LOAD_LANES(448, rdi, 1)
  RIGHT(3, 0, 2)
  ROTATE(7, 25, 0, 2, 4)
  ROTATE(18, 14, 0, 2, 4)
  RIGHT(10, 1, 3)
  ROTATE(17, 15, 1, 3, 5)
  ROTATE(19, 13, 1, 3, 5)
  PLUS_AT(0, rdi, 2, 2)
  PLUS_AT(288, rdi, 2, 2)
  PLUS(3, 2, 2)
  STORE_LANES(2, 512, rdi)
  "addq $32, %rdi\n"
  "decl %eax\n"
  "jnz 3b\n"

  "subq $1536, %rdi\n"
  "leaq round_constants(%rip), %rsi\n"
  "leaq initial_hash(%rip), %rcx\n"
  LOAD_FOR_ALL(0, rcx, 0)
  LOAD_FOR_ALL(4, rcx, 1)
  LOAD_FOR_ALL(8, rcx, 2)
  LOAD_FOR_ALL(12, rcx, 3)
  LOAD_FOR_ALL(16, rcx, 4)
  LOAD_FOR_ALL(20, rcx, 5)
  LOAD_FOR_ALL(24, rcx, 6)
  LOAD_FOR_ALL(28, rcx, 7)
  XOR(1, 2, 14)
  /* Two rounds and going back to the registers of before: without that it would be eight, and four times as much text. */
  "movl $32, %eax\n"
  "4:\n"
  ROUND(0, 0, 1, 2, 3, 4, 5, 6, 7, 13, 14)
  ROUND(1, 7, 0, 1, 2, 3, 4, 5, 6, 14, 13)
  MOVE(6, 8) MOVE(4, 6) MOVE(2, 4) MOVE(0, 2) MOVE(8, 0)
  MOVE(7, 8) MOVE(5, 7) MOVE(3, 5) MOVE(1, 3) MOVE(8, 1)
  "addq $64, %rdi\n"
  "addq $8, %rsi\n"
  "decl %eax\n"
  "jnz 4b\n"

  LOAD_FOR_ALL(0, rcx, 8)
  PLUS(8, 0, 0)
  "movq %r10, %rcx\n"
  STORE_LANES(0, 0, rcx)
  LEAVE_LANES
  "ret\n");

/** Whether the processor has AVX2 (leaf 7 of cpuid) and the system keeps its registers (OSXSAVE of leaf 1, xgetbv). */
int has_lanes(void);
asm(FUNCTION(has_lanes)
  "pushq %rbx\n"
  "xorl %eax, %eax\n"
  "cpuid\n"
  "cmpl $7, %eax\n"
  "jb 1f\n"
  "movl $1, %eax\n"
  "cpuid\n"
  "andl $0x18000000, %ecx\n"
  "cmpl $0x18000000, %ecx\n"
  "jne 1f\n"
  "xorl %ecx, %ecx\n"
  ".byte 0x0f, 0x01, 0xd0\n"
  "andl $6, %eax\n"
  "cmpl $6, %eax\n"
  "jne 1f\n"
  "movl $7, %eax\n"
  "xorl %ecx, %ecx\n"
  "cpuid\n"
  "movl %ebx, %eax\n"
  "shrl $5, %eax\n"
  "andl $1, %eax\n"
  "popq %rbx\n"
  "ret\n"
  "1:\n"
  "xorl %eax, %eax\n"
  "popq %rbx\n"
  "ret\n");

void copy_bytes(unsigned char *to, unsigned char *from, u64 count);
asm(FUNCTION(copy_bytes)
  "movq %rdx, %rcx\n"
  "rep movsb\n"
  "ret\n");

/* --- many messages ---------------------------------------------------------------------------------------------- */

unsigned char *lane_messages[LANES];
unsigned lane_lengths[LANES];
unsigned lane_words[LANES];
/** Which message a lane has. */
unsigned lane_places[LANES];
/** Copies of messages that are nearer to the end than a block. */
unsigned char tails[LANES][BLOCK_BYTES];

/**
 * words[n] = the first word of the hash of message n, which is bytes[ends[n − 1], ends[n]); 0 for one that is longer
 * than MOST_BYTES, or whose ends are in disorder. Reads nothing of `bytes` from ends[count − 1] on.
 */
void first_words(unsigned char *bytes, unsigned *ends, unsigned count, unsigned *words) {
  unsigned place, lane, filled = 0, start = 0, end = 0, last = count ? ends[count - 1] : 0;
  for (place = 0; place < count; place++, start = end) {
    end = ends[place];
    words[place] = 0;
    if (start > end || end > last || end - start > MOST_BYTES) continue;
    lane_places[filled] = place;
    lane_lengths[filled] = end - start;
    lane_messages[filled] = bytes + start;
    if (last - start < BLOCK_BYTES) {
      copy_bytes(tails[filled], bytes + start, end - start);
      lane_messages[filled] = tails[filled];
    }
    if (++filled < LANES) continue;
    hash_lanes(lane_messages, lane_lengths, lane_words);
    for (lane = 0; lane < LANES; lane++) words[lane_places[lane]] = lane_words[lane];
    filled = 0;
  }
  if (!filled) return;
  /* The rest of the lanes hash what is there, and not what was of a call before. */
  for (lane = filled; lane < LANES; lane++) lane_messages[lane] = tails[lane];
  hash_lanes(lane_messages, lane_lengths, lane_words);
  for (lane = 0; lane < filled; lane++) words[lane_places[lane]] = lane_words[lane];
}

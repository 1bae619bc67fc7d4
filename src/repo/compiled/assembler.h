/**
 * What the assembler of all that is compiled shares. TinyCC's own knows no instruction younger than SSE2, so those are
 * written as bytes, which macros make of the numbers of the registers.
 */
#ifndef ASSEMBLER_H
#define ASSEMBLER_H

typedef unsigned long long u64;
typedef long long i64;

#define TEXT_(tokens) #tokens
#define TEXT(tokens) TEXT_(tokens)

#define NUMBER_rax 0
#define NUMBER_rcx 1
#define NUMBER_rdx 2
#define NUMBER_rbx 3
#define NUMBER_rbp 5
#define NUMBER_rsi 6
#define NUMBER_rdi 7
#define NUMBER_r8 8
#define NUMBER_r9 9
#define NUMBER_r10 10
#define NUMBER_r11 11
#define NUMBER_r12 12
#define NUMBER_r13 13
#define NUMBER_r14 14
#define NUMBER_r15 15
#define NUMBER(name) NUMBER_##name

#define FUNCTION(name) ".text\n.align 32\n.globl " #name "\n" #name ":\n"

#endif

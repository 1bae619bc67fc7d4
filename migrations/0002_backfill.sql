ALTER SEQUENCE "public"."accounts_append_id" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1;--> statement-breakpoint
CREATE TABLE "backfill_repos" (
	"queue_id" bigserial PRIMARY KEY NOT NULL,
	"run_id" bigint NOT NULL,
	"retry_at_ms" bigint NOT NULL,
	"attempts" integer NOT NULL,
	"given_up" boolean NOT NULL,
	"did" text COLLATE "C" NOT NULL,
	"reason" text,
	"detail" text NOT NULL,
	CONSTRAINT "backfill_repos_did_key" UNIQUE("run_id","did")
);
--> statement-breakpoint
CREATE TABLE "backfill_runs" (
	"run_id" bigserial PRIMARY KEY NOT NULL,
	"created_at_ms" bigint NOT NULL,
	"updated_at_ms" bigint NOT NULL,
	"finished_at_ms" bigint,
	"planned" boolean NOT NULL,
	"spec" text NOT NULL,
	"started_by" text NOT NULL,
	"state" text NOT NULL,
	"wanted" text NOT NULL,
	"counters" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "backfill_sources" (
	"source_id" bigserial PRIMARY KEY NOT NULL,
	"run_id" bigint NOT NULL,
	"done" bigint NOT NULL,
	"total" bigint,
	"pages" bigint NOT NULL,
	"retry_at_ms" bigint NOT NULL,
	"attempts" integer NOT NULL,
	"name" text COLLATE "C" NOT NULL,
	"group_name" text NOT NULL,
	"state" text NOT NULL,
	"cursor" text,
	"reason" text,
	"detail" text NOT NULL,
	CONSTRAINT "backfill_sources_name_key" UNIQUE("run_id","name")
);
--> statement-breakpoint
ALTER TABLE "accounts" ADD COLUMN "listed_rev" text COLLATE "C";--> statement-breakpoint
ALTER TABLE "accounts" ADD COLUMN "listed_commit" "bytea";--> statement-breakpoint
CREATE INDEX "backfill_repos_due_idx" ON "backfill_repos" USING btree ("run_id","given_up","retry_at_ms","queue_id");
CREATE SEQUENCE "public"."accounts_append_id" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 64;--> statement-breakpoint
CREATE TABLE "accounts" (
	"append_id" bigint,
	"identity_at_ms" bigint NOT NULL,
	"host_id" integer NOT NULL,
	"key_type" smallint,
	"desynchronized" boolean NOT NULL,
	"did" text COLLATE "C" PRIMARY KEY NOT NULL,
	"rev" text COLLATE "C",
	"commit_digest" "bytea",
	"data_digest" "bytea",
	"key" "bytea",
	"handle" text,
	"own_status" text,
	"upstream_status" text,
	CONSTRAINT "accounts_append_id_key" UNIQUE("append_id")
);
--> statement-breakpoint
CREATE TABLE "domain_bans" (
	"created_at_ms" bigint NOT NULL,
	"domain" text PRIMARY KEY NOT NULL
);
--> statement-breakpoint
CREATE TABLE "gaps" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"at_ms" bigint NOT NULL,
	"from_seq" bigint NOT NULL,
	"to_seq" bigint NOT NULL,
	"host_id" integer NOT NULL,
	"why" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "hosts" (
	"cursor" bigint NOT NULL,
	"account_limit" bigint,
	"account_count" bigint NOT NULL,
	"created_at_ms" bigint NOT NULL,
	"last_event_at_ms" bigint NOT NULL,
	"events_per_second_limit" double precision,
	"host_id" integer PRIMARY KEY NOT NULL,
	"failures" integer NOT NULL,
	"secure" boolean NOT NULL,
	"banned" boolean NOT NULL,
	"hostname" text NOT NULL,
	"source" text NOT NULL,
	"status" text NOT NULL,
	"validation" text,
	"ahead" bigint[] NOT NULL,
	CONSTRAINT "hosts_hostname_key" UNIQUE("hostname")
);
--> statement-breakpoint
CREATE TABLE "rejections" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"at_ms" bigint NOT NULL,
	"upstream_seq" bigint NOT NULL,
	"host_id" integer NOT NULL,
	"did" text COLLATE "C" NOT NULL,
	"reason" text NOT NULL,
	"rev" text NOT NULL,
	"detail" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "state_position" (
	"position" bigint NOT NULL,
	"only_row" boolean PRIMARY KEY DEFAULT true NOT NULL,
	CONSTRAINT "state_position_one_row" CHECK ("state_position"."only_row")
);
--> statement-breakpoint
CREATE INDEX "accounts_host_id_idx" ON "accounts" USING btree ("host_id");--> statement-breakpoint
CREATE INDEX "accounts_takendown_idx" ON "accounts" USING btree ("did") WHERE own_status = 'takendown';--> statement-breakpoint
CREATE INDEX "gaps_host_idx" ON "gaps" USING btree ("host_id","id");--> statement-breakpoint
CREATE INDEX "rejections_host_idx" ON "rejections" USING btree ("host_id","id");--> statement-breakpoint
CREATE INDEX "rejections_did_idx" ON "rejections" USING btree ("did","id");
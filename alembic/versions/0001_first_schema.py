"""First schema"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("external_id", sa.String(length=512), nullable=True),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("department_id", sa.BigInteger(), nullable=True),
        sa.Column("manager_id", sa.BigInteger(), nullable=True),
        sa.Column("access_level", sa.String(), server_default="viewer", nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by_id", sa.BigInteger(), nullable=True),
        sa.Column("updated_by_id", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint("access_level IN ('viewer', 'editor', 'admin')", name=op.f("ck_users_access_level")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_users_created_by_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(["manager_id"], ["users.id"], name=op.f("fk_users_manager_id"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["updated_by_id"], ["users.id"], name=op.f("fk_users_updated_by_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("ix_users_code", "users", [sa.literal_column("lower(code)"), "id"], unique=False)
    op.create_index("ix_users_created_at", "users", ["created_at", "id"], unique=False)
    op.create_index("ix_users_created_by_id", "users", ["created_by_id"], unique=False)
    op.create_index("ix_users_department_id", "users", ["department_id"], unique=False)
    op.create_index("ix_users_manager_id", "users", ["manager_id"], unique=False)
    op.create_index("ix_users_name", "users", [sa.literal_column("lower(name)"), "id"], unique=False)
    op.create_index("ix_users_updated_at", "users", ["updated_at", "id"], unique=False)
    op.create_index("ix_users_updated_by_id", "users", ["updated_by_id"], unique=False)
    op.create_index("uq_users_code", "users", [sa.literal_column("lower(code)")], unique=True)
    op.create_index("uq_users_email", "users", [sa.literal_column("lower(email)")], unique=True)
    op.create_index(
        "uq_users_external_id",
        "users",
        ["external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "departments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("external_id", sa.String(length=512), nullable=True),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("head_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by_id", sa.BigInteger(), nullable=True),
        sa.Column("updated_by_id", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_departments_created_by_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(["head_id"], ["users.id"], name=op.f("fk_departments_head_id"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["departments.id"], name=op.f("fk_departments_parent_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["updated_by_id"], ["users.id"], name=op.f("fk_departments_updated_by_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_departments")),
    )
    op.create_index("ix_departments_code", "departments", [sa.literal_column("lower(code)"), "id"], unique=False)
    op.create_index("ix_departments_created_at", "departments", ["created_at", "id"], unique=False)
    op.create_index("ix_departments_created_by_id", "departments", ["created_by_id"], unique=False)
    op.create_index("ix_departments_head_id", "departments", ["head_id"], unique=False)
    op.create_index("ix_departments_name", "departments", [sa.literal_column("lower(name)"), "id"], unique=False)
    op.create_index("ix_departments_parent_id", "departments", ["parent_id"], unique=False)
    op.create_index("ix_departments_updated_at", "departments", ["updated_at", "id"], unique=False)
    op.create_index("ix_departments_updated_by_id", "departments", ["updated_by_id"], unique=False)
    op.create_index("uq_departments_code", "departments", [sa.literal_column("lower(code)")], unique=True)
    op.create_index(
        "uq_departments_external_id",
        "departments",
        ["external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "locations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("external_id", sa.String(length=512), nullable=True),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("address", sa.String(length=1000), nullable=True),
        sa.Column("country", sa.String(length=2), nullable=True),
        sa.Column("timezone", sa.String(length=64), nullable=True),
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by_id", sa.BigInteger(), nullable=True),
        sa.Column("updated_by_id", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "kind IN ('region', 'country', 'city', 'site', 'building', 'floor', 'room', 'virtual')",
            name=op.f("ck_locations_kind"),
        ),
        sa.CheckConstraint("(latitude IS NULL) = (longitude IS NULL)", name=op.f("ck_locations_coordinates")),
        sa.CheckConstraint("latitude BETWEEN -90 AND 90", name=op.f("ck_locations_latitude")),
        sa.CheckConstraint("longitude BETWEEN -180 AND 180", name=op.f("ck_locations_longitude")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_locations_created_by_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["locations.id"], name=op.f("fk_locations_parent_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["updated_by_id"], ["users.id"], name=op.f("fk_locations_updated_by_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_locations")),
    )
    op.create_index("ix_locations_code", "locations", [sa.literal_column("lower(code)"), "id"], unique=False)
    op.create_index("ix_locations_created_at", "locations", ["created_at", "id"], unique=False)
    op.create_index("ix_locations_created_by_id", "locations", ["created_by_id"], unique=False)
    op.create_index("ix_locations_name", "locations", [sa.literal_column("lower(name)"), "id"], unique=False)
    op.create_index("ix_locations_parent_id", "locations", ["parent_id"], unique=False)
    op.create_index("ix_locations_updated_at", "locations", ["updated_at", "id"], unique=False)
    op.create_index("ix_locations_updated_by_id", "locations", ["updated_by_id"], unique=False)
    op.create_index("uq_locations_code", "locations", [sa.literal_column("lower(code)")], unique=True)
    op.create_index(
        "uq_locations_external_id",
        "locations",
        ["external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("external_id", sa.String(length=512), nullable=True),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("criticality", sa.String(), nullable=True),
        sa.Column("owner_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by_id", sa.BigInteger(), nullable=True),
        sa.Column("updated_by_id", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "criticality IN ('low', 'medium', 'high', 'critical')", name=op.f("ck_processes_criticality")
        ),
        sa.CheckConstraint("kind IN ('core', 'management', 'support')", name=op.f("ck_processes_kind")),
        sa.CheckConstraint("status IN ('draft', 'in_review', 'active', 'retired')", name=op.f("ck_processes_status")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_processes_created_by_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_processes_owner_id"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["processes.id"], name=op.f("fk_processes_parent_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["updated_by_id"], ["users.id"], name=op.f("fk_processes_updated_by_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_processes")),
    )
    op.create_index("ix_processes_code", "processes", [sa.literal_column("lower(code)"), "id"], unique=False)
    op.create_index("ix_processes_created_at", "processes", ["created_at", "id"], unique=False)
    op.create_index("ix_processes_created_by_id", "processes", ["created_by_id"], unique=False)
    op.create_index("ix_processes_name", "processes", [sa.literal_column("lower(name)"), "id"], unique=False)
    op.create_index("ix_processes_owner_id", "processes", ["owner_id"], unique=False)
    op.create_index("ix_processes_parent_id", "processes", ["parent_id"], unique=False)
    op.create_index("ix_processes_updated_at", "processes", ["updated_at", "id"], unique=False)
    op.create_index("ix_processes_updated_by_id", "processes", ["updated_by_id"], unique=False)
    op.create_index("uq_processes_code", "processes", [sa.literal_column("lower(code)")], unique=True)
    op.create_index(
        "uq_processes_external_id",
        "processes",
        ["external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "process_departments",
        sa.Column("process_id", sa.BigInteger(), nullable=False),
        sa.Column("department_id", sa.BigInteger(), nullable=False),
        sa.Column("relation", sa.String(), nullable=False),
        sa.CheckConstraint(
            "relation IN ('owner', 'participant', 'supplier', 'customer')", name=op.f("ck_process_departments_relation")
        ),
        sa.ForeignKeyConstraint(
            ["department_id"],
            ["departments.id"],
            name=op.f("fk_process_departments_department_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["process_id"], ["processes.id"], name=op.f("fk_process_departments_process_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("process_id", "department_id", name=op.f("pk_process_departments")),
    )
    op.create_index(
        "ix_process_departments_department_id", "process_departments", ["department_id", "process_id"], unique=False
    )
    op.create_index(
        "uq_process_departments_owner",
        "process_departments",
        ["process_id"],
        unique=True,
        postgresql_where=sa.text("relation = 'owner'"),
    )
    op.create_table(
        "process_locations",
        sa.Column("process_id", sa.BigInteger(), nullable=False),
        sa.Column("location_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["location_id"], ["locations.id"], name=op.f("fk_process_locations_location_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["process_id"], ["processes.id"], name=op.f("fk_process_locations_process_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("process_id", "location_id", name=op.f("pk_process_locations")),
    )
    op.create_index(
        "ix_process_locations_location_id", "process_locations", ["location_id", "process_id"], unique=False
    )
    op.create_table(
        "resources",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("external_id", sa.String(length=512), nullable=True),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("owner_department_id", sa.BigInteger(), nullable=True),
        sa.Column("location_id", sa.BigInteger(), nullable=True),
        sa.Column("criticality", sa.String(), nullable=True),
        sa.Column("url", sa.String(length=2048), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by_id", sa.BigInteger(), nullable=True),
        sa.Column("updated_by_id", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "criticality IN ('low', 'medium', 'high', 'critical')", name=op.f("ck_resources_criticality")
        ),
        sa.CheckConstraint(
            "kind IN ('application', 'data_store', 'equipment', 'facility', 'document', 'material', 'supplier')",
            name=op.f("ck_resources_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_resources_created_by_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["location_id"], ["locations.id"], name=op.f("fk_resources_location_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["owner_department_id"],
            ["departments.id"],
            name=op.f("fk_resources_owner_department_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["updated_by_id"], ["users.id"], name=op.f("fk_resources_updated_by_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resources")),
    )
    op.create_index("ix_resources_code", "resources", [sa.literal_column("lower(code)"), "id"], unique=False)
    op.create_index("ix_resources_created_at", "resources", ["created_at", "id"], unique=False)
    op.create_index("ix_resources_created_by_id", "resources", ["created_by_id"], unique=False)
    op.create_index("ix_resources_location_id", "resources", ["location_id"], unique=False)
    op.create_index("ix_resources_name", "resources", [sa.literal_column("lower(name)"), "id"], unique=False)
    op.create_index("ix_resources_owner_department_id", "resources", ["owner_department_id"], unique=False)
    op.create_index("ix_resources_updated_at", "resources", ["updated_at", "id"], unique=False)
    op.create_index("ix_resources_updated_by_id", "resources", ["updated_by_id"], unique=False)
    op.create_index("uq_resources_code", "resources", [sa.literal_column("lower(code)")], unique=True)
    op.create_index(
        "uq_resources_external_id",
        "resources",
        ["external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "roles",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("external_id", sa.String(length=512), nullable=True),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("department_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by_id", sa.BigInteger(), nullable=True),
        sa.Column("updated_by_id", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_roles_created_by_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["department_id"], ["departments.id"], name=op.f("fk_roles_department_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["updated_by_id"], ["users.id"], name=op.f("fk_roles_updated_by_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_roles")),
    )
    op.create_index("ix_roles_code", "roles", [sa.literal_column("lower(code)"), "id"], unique=False)
    op.create_index("ix_roles_created_at", "roles", ["created_at", "id"], unique=False)
    op.create_index("ix_roles_created_by_id", "roles", ["created_by_id"], unique=False)
    op.create_index("ix_roles_department_id", "roles", ["department_id"], unique=False)
    op.create_index("ix_roles_name", "roles", [sa.literal_column("lower(name)"), "id"], unique=False)
    op.create_index("ix_roles_updated_at", "roles", ["updated_at", "id"], unique=False)
    op.create_index("ix_roles_updated_by_id", "roles", ["updated_by_id"], unique=False)
    op.create_index("uq_roles_code", "roles", [sa.literal_column("lower(code)")], unique=True)
    op.create_index(
        "uq_roles_external_id",
        "roles",
        ["external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_table(
        "process_resources",
        sa.Column("process_id", sa.BigInteger(), nullable=False),
        sa.Column("resource_id", sa.BigInteger(), nullable=False),
        sa.Column("usage", sa.String(), nullable=False),
        sa.CheckConstraint("usage IN ('uses', 'reads', 'writes', 'produces')", name=op.f("ck_process_resources_usage")),
        sa.ForeignKeyConstraint(
            ["process_id"], ["processes.id"], name=op.f("fk_process_resources_process_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["resource_id"], ["resources.id"], name=op.f("fk_process_resources_resource_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("process_id", "resource_id", name=op.f("pk_process_resources")),
    )
    op.create_index(
        "ix_process_resources_resource_id", "process_resources", ["resource_id", "process_id"], unique=False
    )
    op.create_table(
        "process_roles",
        sa.Column("process_id", sa.BigInteger(), nullable=False),
        sa.Column("role_id", sa.BigInteger(), nullable=False),
        sa.Column("responsibility", sa.String(), nullable=False),
        sa.CheckConstraint(
            "responsibility IN ('responsible', 'accountable', 'consulted', 'informed')",
            name=op.f("ck_process_roles_responsibility"),
        ),
        sa.ForeignKeyConstraint(
            ["process_id"], ["processes.id"], name=op.f("fk_process_roles_process_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["role_id"], ["roles.id"], name=op.f("fk_process_roles_role_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("process_id", "role_id", "responsibility", name=op.f("pk_process_roles")),
    )
    op.create_index("ix_process_roles_role_id", "process_roles", ["role_id", "process_id"], unique=False)
    op.create_index(
        "uq_process_roles_accountable",
        "process_roles",
        ["process_id"],
        unique=True,
        postgresql_where=sa.text("responsibility = 'accountable'"),
    )
    op.create_table(
        "role_holders",
        sa.Column("role_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["role_id"], ["roles.id"], name=op.f("fk_role_holders_role_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_role_holders_user_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("role_id", "user_id", name=op.f("pk_role_holders")),
    )
    op.create_index("ix_role_holders_user_id", "role_holders", ["user_id", "role_id"], unique=False)
    # Departments and users refer to one another, so one side waits for both tables.
    op.create_foreign_key(
        "fk_users_department_id", "users", "departments", ["department_id"], ["id"], ondelete="RESTRICT"
    )


def downgrade() -> None:
    op.drop_constraint("fk_users_department_id", "users")
    op.drop_table("role_holders")
    op.drop_table("process_roles")
    op.drop_table("process_resources")
    op.drop_table("roles")
    op.drop_table("resources")
    op.drop_table("process_locations")
    op.drop_table("process_departments")
    op.drop_table("processes")
    op.drop_table("locations")
    op.drop_table("departments")
    op.drop_table("users")
